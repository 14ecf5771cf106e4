"""The model as the server uses it."""

from typing import Protocol, TypeVar

from actors.commands import Batch, BatchOutput
from actors.engine.serving import Mended

Begun = TypeVar("Begun")


class NotYet(Exception):
    """Nothing can be begun or finished now; ask again."""


class Anew(Exception):
    """The ranks go on over so many stages, and kept nothing: every sequence begins anew."""

    def __init__(self, stages: int) -> None:
        super().__init__(stages)
        self.stages = stages


class Engine(Protocol[Begun]):
    """Runs batches in the order in which they are begun; several may be under way.

    The first three may raise Anew; every batch under way is lost then.
    """

    def weights(self) -> int | None:
        """Return the step of the training run whose weights the next batch is made for; None where
        weights never change. NotYet where no batch can be begun now.
        """

    def begin(self, batch: Batch) -> Begun:
        """Begin a batch and return at once."""

    def finish(self, flight: Begun) -> BatchOutput:
        """Wait for the batch that was begun first, of those not finished, and return its output.

        NotYet where that may take long.
        """

    def mend(self) -> Mended:
        """Bring all ranks together after a loss; every batch under way is lost."""

    def healthy(self) -> bool:
        """Return whether every rank is alive."""

    def shutdown(self) -> None:
        """End the ranks."""
