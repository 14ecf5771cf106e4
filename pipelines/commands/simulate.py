"""``raymoe simulate``: the step, waiting and memory of a plan, and what it loses to failures."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.errors import ConfigError
from pipelines.commands.planning_arguments import (
    Imbalance,
    Length,
    MicroBatches,
    NumericsName,
    Page,
    ProfileFile,
    Schedule,
)
from pipelines.planning.output import output
from pipelines.screen.terminal import console, say

if TYPE_CHECKING:
    from moe.planning.failures.traces import Trace
    from moe.planning.plan.plan import Plan

_HOURS = 24.0
_MOST_FAILURES = 100_000
"""Played on 64 devices in about fifteen seconds for each policy."""

EXAMPLE = "raymoe simulate plan.toml --model moe --inventory inventory.toml --failures-mtbf 3600"


def simulate(
    plan: Annotated[Path, typer.Argument(help="Plan file (TOML).")],
    model: Annotated[str, typer.Option(help="Model directory or preset that the plan is for.")],
    inventory: Annotated[
        Path, typer.Option(help="Inventory file (TOML) that has the devices of the plan.")
    ],
    profile: ProfileFile = None,
    schedule: Schedule = "1f1b",
    sequence_length: Length = None,
    micro_batch: Annotated[int, typer.Option(help="Sequences in each micro-batch.")] = 1,
    micro_batches: MicroBatches = None,
    numerics: NumericsName = "float32",
    imbalance: Imbalance = 1.0,
    failures_mtbf: Annotated[
        float | None,
        typer.Option(
            help="Draw failures of single processes, this many seconds apart on average over the "
            "whole cluster, and show the goodput."
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Show the goodput under the failures in this CSV: seconds,lost,joined."),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(help="Length of the run with drawn failures.", show_default=f"{_HOURS:g}"),
    ] = None,
    html: Page = None,
) -> None:
    """Simulate a plan: step time, pipeline bubbles, MFU, memory, and goodput under failures."""
    from moe.planning.plan.file import load_plan
    from moe.planning.prediction.predict import predict
    from pipelines.commands.findings import draw
    from pipelines.commands.planning_arguments import Work, architecture, batch, devices_of
    from pipelines.planning.survival import Run, goodputs
    from pipelines.screen.simulation_table import simulation_lines, simulation_table
    from pipelines.screen.survival_table import survival_table

    page = None if html is None else output("--html", html)
    _check_failures(failures_mtbf, trace, hours)
    step = batch(None, micro_batch, micro_batches)
    asked = Work(sequence_length, numerics, imbalance, schedule)
    config, there, what = architecture(model), devices_of(inventory, profile), load_plan(plan)
    what.check_model(config)
    work = asked.workload(config, step, there)
    lost = _trace(what, trace, failures_mtbf, hours)
    predicted = predict(config, what, there, work)
    run = Run(config, what, there, predicted)
    survived = None if lost is None else survival_table(lost, goodputs(run, lost), console.width)
    console.print(simulation_table(what, there, predicted, console.width))
    for line in simulation_lines(config, what, there, predicted):
        say(line)
    if survived is not None:
        console.print(survived)
    if page is not None:
        draw(page.path, config, what, there, work)
        say(page.told)


def _check_failures(mtbf: float | None, trace: Path | None, hours: float | None) -> None:
    """Raise ConfigError for failures that contradict each other, or are too many to play."""
    if trace is not None and (mtbf is not None or hours is not None):
        raise ConfigError(
            "--trace gives the failures and the end of the run; leave --failures-mtbf and --hours "
            "out"
        )
    if hours is not None and mtbf is None:
        raise ConfigError("--hours is the length of drawn failures; give --failures-mtbf too")
    for option, value in (("--failures-mtbf", mtbf), ("--hours", hours)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{option} is {value:g}; give a finite number above 0")
    length = hours or _HOURS
    if mtbf is not None and length * 3600 / mtbf > _MOST_FAILURES:
        raise ConfigError(
            f"--failures-mtbf {mtbf:g} gives about {length * 3600 / mtbf:,.0f} failures in "
            f"{length:g} hours, but at most {_MOST_FAILURES:,} are simulated; raise "
            "--failures-mtbf, or lower --hours"
        )


def _trace(
    plan: "Plan", file: Path | None, mtbf_seconds: float | None, hours: float | None
) -> "Trace | None":
    """Return what fails: as a file says, or drawn, every lost process back at once."""
    from moe.planning.failures.traces import load_trace, poisson

    if file is not None:
        return load_trace(file)
    if mtbf_seconds is None:
        return None
    devices = plan.ranks * plan.replicas
    return poisson(devices, mtbf_seconds, (hours or _HOURS) * 3600, seed=0)
