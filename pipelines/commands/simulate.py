"""``raymoe simulate``: what a plan takes, idles, needs and survives on devices one may not have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.errors import ConfigError
from pipelines.planning.arguments import (
    Imbalance,
    Length,
    MicroBatches,
    NumericsName,
    ProfileFile,
)
from pipelines.screen.terminal import console, say

if TYPE_CHECKING:
    from moe.planning.failures.traces import Trace
    from moe.planning.plan.plan import Plan
    from pipelines.planning.survival import Run

_HOURS = 24.0


def simulate(
    plan: Annotated[Path, typer.Argument(help="Plan, TOML.")],
    model: Annotated[str, typer.Option(help="Model directory or preset of the plan.")],
    inventory: Annotated[Path, typer.Option(help="Inventory file with the plan's devices.")],
    profile: ProfileFile = None,
    schedule: Annotated[
        str, typer.Option(help="gpipe, 1f1b, interleaved-1f1b, zero-bubble or zbv.")
    ] = "1f1b",
    sequence_length: Length = 512,
    micro_batch: Annotated[int, typer.Option(help="Sequences of a micro-batch.")] = 1,
    micro_batches: MicroBatches = None,
    numerics: NumericsName = "float32",
    imbalance: Imbalance = 1.0,
    failures_mtbf: Annotated[
        float | None,
        typer.Option(help="Seconds between failures anywhere; goodput under drawn failures."),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Goodput under a trace, CSV: seconds,lost,joined.")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Length of drawn failures; 24.")] = None,
    html: Annotated[Path | None, typer.Option(help="Draw the plan into this page too.")] = None,
) -> None:
    """Play a plan: step, bubbles, MFU, memory, and goodput where devices fail."""
    from moe.planning.counts.workload import Workload
    from moe.planning.plan.file import load_plan
    from moe.planning.prediction.predict import predict
    from pipelines.commands.plan import draw
    from pipelines.planning.arguments import architecture, batch, devices_of, numerics_named
    from pipelines.planning.survival import Run
    from pipelines.screen.simulation_table import simulation_lines, simulation_table

    if trace is not None and (failures_mtbf is not None or hours is not None):
        raise ConfigError(
            "--trace says itself what fails and when it ends; leave --failures-mtbf and --hours out"
        )
    if hours is not None and failures_mtbf is None:
        raise ConfigError("--hours is how long failures are drawn; give --failures-mtbf too")
    config, there, what = architecture(model), devices_of(inventory, profile), load_plan(plan)
    work = Workload(
        sequence_length,
        micro_batch,
        batch(None, micro_batch, micro_batches).micro_batches,
        schedule=schedule,
        numerics=numerics_named(numerics),
        imbalance=imbalance,
        snapshots=there.of_cpus,
    )
    predicted = predict(config, what, there, work)
    console.print(simulation_table(what, there, predicted))
    for line in simulation_lines(config, what, there, predicted):
        say(line)
    if trace is not None or failures_mtbf is not None:
        _survive(Run(config, what, there, predicted), _trace(what, trace, failures_mtbf, hours))
    if html is not None:
        draw(html, config, what, there, work)
        say(f"wrote {html}")


def _survive(run: "Run", trace: "Trace") -> None:
    from pipelines.planning.survival import goodputs
    from pipelines.screen.survival_table import survival_table

    console.print(survival_table(trace, goodputs(run, trace)))


def _trace(
    plan: "Plan", file: Path | None, mtbf_seconds: float | None, hours: float | None
) -> "Trace":
    """Return what fails: as a file says, else drawn, every lost process back at once."""
    from moe.planning.failures.traces import load_trace, poisson

    if file is not None or mtbf_seconds is None:
        return load_trace(file or Path())
    return poisson(len(plan.seats), mtbf_seconds, (hours or _HOURS) * 3600, seed=0)
