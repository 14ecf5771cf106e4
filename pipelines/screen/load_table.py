"""A load on a server on one screen: latencies by percentile, rates, and every failure."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipelines.loading.figures import Figures, Spread
from pipelines.loading.load import Load
from pipelines.loading.running import Standing, Told
from pipelines.screen.words import count

HEADINGS = ("p50", "p90", "p95", "p99", "mean", "most")
EVERY_SECONDS = 0.1
LATE_SECONDS = 0.05
"""A request that was sent later than this after it was due is told of."""


def load_table(load: Load, found: Figures) -> Table:
    """Return one row per latency, in milliseconds, for 80 columns."""
    table = Table(title=_title(load), box=SIMPLE_HEAD, padding=0)
    table.add_column("milliseconds", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True, min_width=7)
    latencies = {
        "to the first token": found.first_token,
        "between tokens": found.between_tokens,
        "per token of a request": found.per_token,
        "end to end": found.end_to_end,
    }
    for name, spread in latencies.items():
        table.add_row(name, *_cells(spread))
    return table


def load_lines(found: Figures) -> list[str]:
    """Return the lines below the table: rates, and what a person should know of the figures."""
    rates = found.rates
    read = rates["prompt_tokens_per_second"]
    lines = [
        f"{found.answered} of {count(found.requests, 'request')} answered in "
        f"{found.seconds:.2f} s: {rates['requests_per_second']:.2f} requests/s",
        f"tokens: {'not counted' if read is None else f'{read:.1f}/s'} in, "
        f"{rates['output_tokens_per_second']:.1f}/s out ({found.output_tokens} in all, counted by "
        f"{found.counted_by})",
    ]
    if found.left:
        lines.append(f"{count(found.left, 'client')} went away in mid-stream, as asked")
    if found.counted_by != "events" and found.events < 0.95 * found.output_tokens:
        lines.append(
            f"{found.output_tokens / max(found.events, 1):.1f} tokens came with each event, so "
            "'between tokens' is the time between events"
        )
    if found.late > LATE_SECONDS:
        lines.append(
            f"requests were sent up to {found.late:.2f} s late: this load generator was the limit"
        )
    return lines


def fault_lines(found: Figures) -> list[str]:
    """Return a line for each kind of failure."""
    return [
        f"{fault.count} failed: {fault.name}: {' '.join(fault.message.split())[:200]}"
        for fault in found.faults
    ]


@contextmanager
def load_view(console: Console, requests: int) -> Iterator[Told]:
    """Yield what shows a load while it runs."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed}/{task.total} requests"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
    )
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=requests, numbers="")
        last = 0.0

        def tell(standing: Standing) -> None:
            nonlocal last
            if standing.seconds - last > EVERY_SECONDS:
                last = standing.seconds
                bar.update(task, completed=standing.ended, numbers=_numbers(standing))

        yield tell


def _title(load: Load) -> str:
    how = f"{load.rate:g} a second" if load.rate is not None else f"{load.concurrency} at a time"
    return f"{count(load.requests, 'request')}, {how}"


def _cells(spread: Spread | None) -> list[str]:
    if spread is None:
        return ["-"] * len(HEADINGS)
    values = (spread.p50, spread.p90, spread.p95, spread.p99, spread.mean, spread.most)
    return [f"{1e3 * value:.1f}" if value < 100 else f"{1e3 * value:.0f}" for value in values]


def _numbers(standing: Standing) -> str:
    pace = standing.events / standing.seconds if standing.seconds else 0.0
    words = f"{standing.running} running  {pace:.0f} tokens/s"
    return f"{words}  [red]{standing.failed} failed[/]" if standing.failed else words
