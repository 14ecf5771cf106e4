"""What the engine knows of a checkpoint that its ranks are writing."""

from collections.abc import Callable, Sequence

from actors.calls import Answer, over
from moe.checkpoint.records import WrittenFiles


class PendingWrites:
    """Files that ranks are writing; nothing waits for them until the result is asked for."""

    def __init__(self, answers: Sequence[Answer], gather: Callable[[], list[WrittenFiles]]) -> None:
        self._answers = list(answers)
        self._gather = gather

    def done(self) -> bool:
        """Tell whether all ranks have written, or one has failed; at once."""
        return over(self._answers)

    def result(self) -> list[WrittenFiles]:
        """Wait for what every rank has written."""
        return self._gather()
