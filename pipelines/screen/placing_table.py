"""Moved experts on the terminal: each layer before and after, moves, bytes."""

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from moe.config.model import ModelConfig
from pipelines.planning.placing import Placed, expert_bytes
from pipelines.screen.words import count


def placing_table(placed: Sequence[Placed]) -> Table:
    """Return one row per layer."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    for heading in ("stage", "layer", "before", "after", "moves"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in placed:
        moved = Counter(move.layer for move in stage.moves)
        for layer, before, after in stage.ratios:
            moving = str(moved[layer] or "")
            table.add_row(str(stage.stage), str(layer), f"{before:.3f}", f"{after:.3f}", moving)
    return table


def summary_lines(placed: Sequence[Placed], config: ModelConfig | None, numbers: int) -> list[str]:
    """Return the whole in lines; ``numbers`` are what travels for each parameter of an expert."""
    before, after = ([row[column] for stage in placed for row in stage.ratios] for column in (1, 2))
    line = (
        f"load of the slowest rank over a perfect spread, mean of {count(len(before), 'layer')}: "
        f"{sum(before) / len(before):.3f} before, {sum(after) / len(after):.3f} after"
    )
    found = [move for stage in placed for move in stage.moves]
    moved = f"{count(len(found), 'expert')} to move" if found else "nothing to move"
    if found and config is not None:
        size = sum(expert_bytes(config, move.layer, numbers) for move in found)
        moved += f", {size / 1e9:.3g} GB"
    elif found:
        moved += "; --model tells their bytes"
    return [line, moved]
