"""``raymoe rebalance``: where the experts of each layer go, from the load that a run measured."""

import math
from pathlib import Path
from typing import Annotated

import typer

from moe.errors import ConfigError
from pipelines.planning.output import output
from pipelines.screen.terminal import console, say

_TRAINED = 3
"""Numbers that move with a parameter in training: the weight, and AdamW's two moments."""
_SERVED = 1

EXAMPLE = "raymoe rebalance --journal run/journal.jsonl --plan plan.toml --to rebalanced.toml"


def rebalance(
    journal: Annotated[
        Path, typer.Option(help="Journal of a run (JSONL), which has the load of every expert.")
    ],
    plan: Annotated[Path, typer.Option(help="Plan file of the run.")],
    to: Annotated[Path, typer.Option("--to", help="Plan file to write; replaced where it exists.")],
    steps: Annotated[int, typer.Option(help="Number of last steps whose load is summed.")] = 100,
    threshold: Annotated[
        float,
        typer.Option(
            help="Move experts of a layer only where its slowest rank becomes faster by this part."
        ),
    ] = 0.1,
    model: Annotated[
        str | None,
        typer.Option(help="Model directory or preset; tells how many bytes the moves copy."),
    ] = None,
    inventory: Annotated[
        Path | None,
        typer.Option(
            help="Inventory file, to weigh ranks by the speed of their devices.",
            show_default="ranks are weighed by their CPU threads",
        ),
    ] = None,
    spare_slots: Annotated[
        int | None,
        typer.Option(
            help="For serving: additional expert slots of each rank, for copies of busy experts. "
            "--to is then an expert layout file, because a plan holds each expert once."
        ),
    ] = None,
) -> None:
    """Move experts between the ranks of each gang so that the measured load is even."""
    from moe.planning.experts.expert_layout import save_layout
    from moe.planning.experts.load import load_from_journal
    from moe.planning.plan.file import load_plan, save_plan
    from pipelines.commands.planning_arguments import architecture, at_least_one, devices_of
    from pipelines.planning.stage_experts import (
        improved,
        joined,
        replicated,
        speeds_of,
        with_experts,
    )
    from pipelines.screen.rebalance_table import rebalance_table, summary_lines

    file = output("--to", to)
    at_least_one(steps=steps, spare_slots=spare_slots)
    if not 0 <= threshold < math.inf:
        raise ConfigError(f"--threshold is {threshold:g}; give a part from 0 on, as 0.1")
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
        save_layout(joined(stages), to)
    console.print(rebalance_table(stages))
    for line in summary_lines(stages, config, _TRAINED if spare_slots is None else _SERVED):
        say(line)
    say(file.told)
