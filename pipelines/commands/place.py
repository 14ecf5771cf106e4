"""``raymoe place``: where the experts of each layer go, from the load that a run measured."""

from pathlib import Path
from typing import Annotated

import typer

from moe.errors import ConfigError
from pipelines.screen.terminal import console, say

_TRAINED = 3
"""Numbers that move with a parameter in training: the weight, and AdamW's two moments."""
_SERVED = 1


def place(
    journal: Annotated[Path, typer.Option(help="Journal of a run, with the load of experts.")],
    plan: Annotated[Path, typer.Option(help="Plan of the run.")],
    to: Annotated[Path, typer.Option("--to", help="Where to write the new plan, TOML.")],
    steps: Annotated[int, typer.Option(help="Last steps whose load counts.")] = 100,
    threshold: Annotated[
        float, typer.Option(help="A layer moves experts if its slowest rank gains this part.")
    ] = 0.1,
    model: Annotated[
        str | None, typer.Option(help="Model directory or preset, to tell the bytes of moves.")
    ] = None,
    inventory: Annotated[
        Path | None, typer.Option(help="Inventory file, where ranks of a gang are unlike.")
    ] = None,
    spare_slots: Annotated[
        int | None,
        typer.Option(
            help="Serving: slots more on each rank, for copies of hot experts; --to is then a "
            "placement file, as a plan holds each expert once."
        ),
    ] = None,
) -> None:
    """Move experts between the ranks of a gang so that the measured load is even."""
    from moe.planning.experts.load import load_from_journal
    from moe.planning.experts.placement import save_placement
    from moe.planning.plan.file import load_plan, save_plan
    from pipelines.planning.arguments import architecture, devices_of
    from pipelines.planning.placing import improved, joined, replicated, speeds_of, with_experts
    from pipelines.screen.placing_table import placing_table, summary_lines

    if spare_slots is not None and spare_slots < 1:
        raise ConfigError(f"--spare-slots is {spare_slots}; give at least 1, or leave it out")
    old = load_plan(plan)
    config = None if model is None else architecture(model)
    if config is not None:
        old.check_model(config)
    layers, load = load_from_journal(journal, steps)
    speeds = speeds_of(old, None if inventory is None else devices_of(inventory))
    if spare_slots is None:
        stages = improved(old, layers, load, threshold, speeds)
        save_plan(with_experts(old, stages), to)
    else:
        stages = replicated(old, layers, load, spare_slots, speeds)
        save_placement(joined(stages), to)
    console.print(placing_table(stages))
    for line in summary_lines(stages, config, _TRAINED if spare_slots is None else _SERVED):
        say(line)
    say(f"wrote {to}")
