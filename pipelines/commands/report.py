"""``raymoe report``: what a run did, as one page, and in the formats of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from moe.errors import ConfigError
from pipelines.screen.terminal import say

EXAMPLE = "raymoe report runs/demo --to report.html"
PAGE = Path("report.html")


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Directory of a run (checkpoint.path) or its run file. Several are shown side by "
            "side.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Page to write (HTML).")] = PAGE,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Write the page again as the run goes on, until it is done; an open browser loads "
            "it by itself.",
        ),
    ] = False,
    every: Annotated[
        int | None,
        typer.Option(help="With --follow: seconds between two looks.", show_default="10", min=1),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(help="Also write an event file for TensorBoard into this new directory."),
    ] = None,
    wandb: Annotated[
        Path | None,
        typer.Option(
            help="Also write an offline run of Weights & Biases below this directory "
            "(raymoe[wandb])."
        ),
    ] = None,
) -> None:
    """Draw what a run did: loss, speed, experts, events, plan and memory, in one file."""
    from pipelines.planning.output import output
    from pipelines.reporting.recorded import read_run
    from pipelines.screen.report.follow import follow as keep_drawing
    from pipelines.screen.report.page import write_report

    if every is not None and not follow:
        raise ConfigError(f"--every {every} has no effect without --follow; give that too")
    if (tensorboard or wandb) and len(runs) > 1:
        raise ConfigError(
            "--tensorboard and --wandb export one run; give one, and the others one by one"
        )
    page = output("--to", to)
    if follow:
        say(f"writing {to} as the run goes on; end it with Ctrl-C")
        if not keep_drawing(page.path, runs, every or 10):
            return
    else:
        write_report(page.path, [read_run(run) for run in runs])
    say(page.told)
    _export(runs[0], tensorboard, wandb)


def _export(run: Path, tensorboard: Path | None, wandb: Path | None) -> None:
    if tensorboard is not None:
        from pipelines.reporting.tensorboard import to_tensorboard

        say(f"wrote {to_tensorboard(run, tensorboard)} steps to {tensorboard}")
    if wandb is not None:
        from pipelines.reporting.recorded import journal_of
        from pipelines.reporting.wandb_run import to_wandb

        name = journal_of(run).absolute().parent.name
        say(f"wrote {to_wandb(run, wandb, name)} steps below {wandb}; `wandb sync` sends them")
