"""Goodput on the terminal: each way to recover, and where its time went."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from moe.planning.failures.goodput import Goodput
from moe.planning.failures.traces import Trace
from pipelines.screen.words import count, seconds

_CAPTION = (
    "useful: effective training time ratio. Detection, restart and rebuilding as measured on two "
    "CPU cores; copies travel over the plan's links; checkpoints at 1 GB/s a rank, assumed; saves "
    "as often as Young's formula has it."
)


def survival_table(trace: Trace, played: Sequence[tuple[str, Goodput]]) -> Table:
    """Return one row for each way to recover."""
    table = Table(
        title=_title(trace), caption=_CAPTION, caption_justify="left", box=SIMPLE_HEAD, padding=0
    )
    table.add_column("recovery", no_wrap=True)
    headings = (
        "useful",
        "slower",
        "lost",
        "recov-\nering",
        "saving",
        "waiting",
        "steps",
        "from\ndisk",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in played:
        parts = (
            found.useful_seconds,
            found.slower_seconds,
            found.lost_seconds,
            found.recovery_seconds,
            found.saving_seconds,
            found.waiting_seconds,
        )
        shares = (f"{part / found.horizon_seconds:.1%}" for part in parts)
        table.add_row(name, *shares, f"{found.steps:,}", str(found.restores))
    return table


def _title(trace: Trace) -> str:
    line = f"{trace.horizon_seconds / 3600:.3g} hours, {count(trace.losses, 'loss', 'es')}"
    return f"{line}, one every {seconds(trace.mtbf_seconds)}" if trace.losses else line
