"""Goodput on the terminal: each recovery policy, today's first, with the use of its time."""

from collections.abc import Sequence

from rich.table import Table

from moe.planning.failures.goodput import Goodput
from moe.planning.failures.recovery import TODAY
from moe.planning.failures.traces import Trace
from pipelines.screen.grid import NARROW, grid, heading
from pipelines.screen.words import count, seconds

_CAPTION = (
    "today: what raymoe does when a process is lost. planned: survivors keep their processes; this "
    "is simulated, not built. useful: effective training time ratio. Detection, restart and "
    "rebuilding as measured on two CPU cores; copies travel over the plan's links; checkpoints at "
    "1 GB/s for each rank, assumed; saves as often as Young's formula says."
)
_HEADINGS = (
    "useful",
    "slower",
    "lost",
    "recov~\nering",
    "saving",
    "waiting",
    "steps",
    "from\ndisk",
)


def survival_table(
    trace: Trace, played: Sequence[tuple[str, Goodput]], width: int = NARROW
) -> Table:
    """Return a row for each recovery policy: today's policy, then the planned policies."""
    table = grid(width, _title(trace), _CAPTION)
    table.add_column("recovery", no_wrap=True)
    for text in _HEADINGS:
        table.add_column(heading(text, width), justify="right", no_wrap=True)
    today = [each for each in played if each[0] == TODAY]
    planned = [each for each in played if each[0] != TODAY]
    for status, listed in (("today:", today), ("planned:", planned)):
        table.add_row(status)
        for name, found in listed:
            table.add_row(f" {name}", *_cells(found))
    return table


def _cells(found: Goodput) -> list[str]:
    parts = (
        found.useful_seconds,
        found.slower_seconds,
        found.lost_seconds,
        found.recovery_seconds,
        found.saving_seconds,
        found.waiting_seconds,
    )
    shares = [f"{part / found.horizon_seconds:.1%}" for part in parts]
    return [*shares, f"{found.steps:,}", str(found.restores)]


def _title(trace: Trace) -> str:
    line = f"{trace.horizon_seconds / 3600:.3g} hours, {count(trace.losses, 'loss', 'es')}"
    return f"{line}, one every {seconds(trace.mtbf_seconds)}" if trace.losses else line
