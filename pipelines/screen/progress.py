"""The progress of a run: a live bar on a terminal, plain lines in a log."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from actors.commands import StepReport
from cluster.session import Session
from moe.planning.plan.plan import Plan
from pipelines.screen.plan_table import plan_line

_NEARLY_ALL = 0.9
"""Part of the tokens that count from which on nothing is said of those that do not."""


class TrainingView:
    """Shows the start of a run and every step."""

    def __init__(self, console: Console, progress: Progress | None, steps: int) -> None:
        self._console = console
        self._progress = progress
        self._steps = steps
        self._task = progress.add_task("training", total=steps, numbers="") if progress else None

    def start(self, plan: Plan, session: Session) -> None:
        """Show the plan and the address of the dashboard."""
        self._console.print(f"plan: {plan_line(plan)}", highlight=False, markup=False)
        if session.dashboard_url:
            self._console.print(f"dashboard: {session.dashboard_url}", highlight=False)

    def tell(self, line: str) -> None:
        """Show a line about what the run does between steps."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def step(self, report: StepReport) -> None:
        """Show one step."""
        if self._progress is None or self._task is None:
            self._console.print(
                f"step {report.step}/{self._steps}  {step_line(report)}", highlight=False
            )
            return
        self._progress.update(self._task, completed=report.step, numbers=step_line(report))


@contextmanager
def training_view(console: Console, steps: int) -> Iterator[TrainingView]:
    """Yield the view of one run."""
    if not console.is_terminal:
        yield TrainingView(console, None, steps)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield TrainingView(console, progress, steps)


@contextmanager
def counted(console: Console, what: str, unit: str = "") -> Iterator["Counter"]:
    """Yield a progress bar for work of known size."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        yield Counter(bar, what, unit)


class Counter:
    """Called with the amount done and the total amount."""

    def __init__(self, bar: Progress, what: str, unit: str) -> None:
        self._bar = bar
        self._unit = unit
        self._task = bar.add_task(what, total=None, amount="")

    def call(self, what: str) -> None:
        """Say what the work is now."""
        self._bar.update(self._task, description=what)

    def __call__(self, done: int, total: int) -> None:
        """Show the progress."""
        scale = 10**6 if self._unit == "MB" else 1
        amount = f"{done // scale}/{total // scale} {self._unit}"
        self._bar.update(self._task, completed=done, total=total, amount=amount)


def step_line(report: StepReport) -> str:
    """Return the numbers of a step as a line."""
    speed = report.tokens / report.seconds if report.seconds else 0.0
    line = f"loss {report.loss:.4f}  {speed:.0f} tok/s"
    if report.seconds and report.tokens < _NEARLY_ALL * report.computed_tokens:
        line += f" that count, of {report.computed_tokens / report.seconds:.0f}"
    return f"{line}  drop {report.drop_rate:.1%}" if report.layers else line
