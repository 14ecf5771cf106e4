"""A study while it runs: a live bar on a terminal, a line for each arm in a log."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from pipelines.screen.progress import counted
from pipelines.study.arm import Arm
from pipelines.study.lab import Told


@contextmanager
def arms_view(console: Console) -> Iterator[Told]:
    """Yield what is told of every step of every arm."""
    if not console.is_terminal:
        yield _lines(console)
        return
    with counted(console, "training") as bar:

        def told(arm: Arm, done: int, total: int) -> None:
            bar.call(_named(arm))
            bar(done, total)

        yield told


def _lines(console: Console) -> Told:
    def told(arm: Arm, done: int, total: int) -> None:
        if done == total:
            console.print(f"trained {escape(_named(arm))}: {total} steps", highlight=False)

    return told


def _named(arm: Arm) -> str:
    return f"{arm.name}, seed {arm.seed}"
