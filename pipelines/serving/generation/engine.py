"""The model as the server uses it."""

from typing import Protocol, TypeVar

from actors.commands import Batch, BatchOutput
from actors.engine.serving import Mended

Begun = TypeVar("Begun")


class Engine(Protocol[Begun]):
    """Runs batches in the order in which they are begun; several may be under way."""

    def begin(self, batch: Batch) -> Begun:
        """Begin a batch and return at once."""

    def finish(self, flight: Begun) -> BatchOutput:
        """Wait for the batch that was begun first, of those not finished, and return its output."""

    def mend(self) -> Mended:
        """Bring all ranks together after a loss; every batch under way is lost."""

    def healthy(self) -> bool:
        """Return whether every rank is alive."""

    def shutdown(self) -> None:
        """End the ranks."""
