"""Rebalanced experts on the terminal: each layer before and after, experts moved, bytes."""

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from moe.config.model import ModelConfig
from moe.sizes import size_text
from pipelines.planning.stage_experts import StageExperts, expert_bytes
from pipelines.screen.words import count


def rebalance_table(stages: Sequence[StageExperts]) -> Table:
    """Return one row per layer."""
    table = Table(
        caption="load of the slowest rank over the load of an even spread, before and after; "
        "1 is perfect",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    for heading in ("stage", "layer", "before", "after", "experts\nmoved"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in stages:
        moved = Counter(move.layer for move in stage.moves)
        for layer, before, after in stage.ratios:
            moving = str(moved[layer] or "")
            table.add_row(str(stage.stage), str(layer), f"{before:.3f}", f"{after:.3f}", moving)
    return table


def summary_lines(
    stages: Sequence[StageExperts], config: ModelConfig | None, numbers: int
) -> list[str]:
    """Return the sums over all layers; ``numbers`` travel for each parameter of an expert."""
    before, after = ([row[column] for stage in stages for row in stage.ratios] for column in (1, 2))
    means = (
        f"mean over {count(len(before), 'layer')}: {sum(before) / len(before):.3f} before, "
        f"{sum(after) / len(after):.3f} after"
    )
    found = [move for stage in stages for move in stage.moves]
    if not found:
        return [means, "no expert moves"]
    moved = f"{count(len(found), 'expert')} to move"
    if config is None:
        return [means, f"{moved}; --model tells how many bytes"]
    total = sum(expert_bytes(config, move.layer, numbers) for move in found)
    return [means, f"{moved}, {size_text(total)}"]
