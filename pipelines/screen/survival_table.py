"""Goodput on the terminal: each way to recover, with the use of its time."""

from collections.abc import Sequence

from rich.table import Table

from moe.planning.failures.goodput import Goodput
from moe.planning.failures.recovery import POLICIES, LivingActors
from moe.planning.failures.traces import Trace
from pipelines.screen.grid import NARROW, grid, heading
from pipelines.screen.words import count, seconds

_CAPTION = (
    "with copies: what a run does when a process is lost, with elastic.spares or without; the "
    "survivors keep their processes. without copies: all processes restart from the last "
    "checkpoint. useful: effective training time ratio. Detection, restart and rebuilding as "
    "measured on two CPU cores; copies travel over the plan's links; checkpoints at 1 GB/s for "
    "each rank, assumed; saves as often as Young's formula says."
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
    """Return a row for each way to recover: those with copies, then those without."""
    table = grid(width, _title(trace), _CAPTION)
    table.add_column("recovery", no_wrap=True)
    for text in _HEADINGS:
        table.add_column(heading(text, width), justify="right", no_wrap=True)
    for kept, words in ((True, "with copies:"), (False, "without copies:")):
        table.add_row(words)
        for name, found in played:
            if isinstance(POLICIES[name], LivingActors) == kept:
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
