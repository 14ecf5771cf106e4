"""A model that answers in this process: what the server talks to where there is no Ray."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from actors.commands import AdapterSource, Answering, Batch, BatchOutput
from actors.engine.serving import Mended
from moe.config.sampling import SampledToken, Sampling
from moe.errors import LaunchError, RaymoeError
from pipelines.serving.batching.batcher import Batcher, Room
from pipelines.serving.batching.sequence import Wanted
from pipelines.serving.generation.local import LocalEngine

BLOCKS = 64


@dataclass(frozen=True)
class Taken:
    """An adapter that is there, or what was wrong with it."""

    error: RaymoeError | None = None
    over: bool = True


class LocalDecoder(LocalEngine):
    """The whole model; ``before`` runs ahead of every batch, to wait or to raise what a test wants.

    ``batches`` lists what was run.
    """

    def __init__(
        self, model: Path, before: Callable[[], None] = lambda: None, blocks: int = BLOCKS
    ) -> None:
        super().__init__(model, Answering(blocks))
        self.before = before
        self.batches: list[Batch] = []
        self.mended = 0
        self.step: int | None = None
        self.alive = True

    def weights(self) -> int | None:
        """Return the step that a test wants."""
        return self.step

    def finish(self, flight: Batch) -> BatchOutput:
        """Run a batch."""
        self.before()
        self.batches.append(flight)
        return replace(super().finish(flight), step=self.step)

    def adopt(self, source: AdapterSource) -> "Taken":
        """Take up an adapter at once, or say why not when asked."""
        try:
            self._rank.adopt(source)
        except RaymoeError as error:
            return Taken(error)
        return Taken()

    def adopted(self, adoption: "Taken") -> None:
        """Raise what was wrong with an adapter."""
        if adoption.error is not None:
            raise adoption.error

    def drop(self, adapter: int) -> None:
        """Forget an adapter."""
        self._rank.drop(adapter)

    def mend(self) -> Mended:
        """Be as new; one that was shut down cannot."""
        if not self.alive:
            raise LaunchError("no process can start")
        self.mended += 1
        return Mended((), 0.0)

    def healthy(self) -> bool:
        """Tell whether it was not shut down."""
        return self.alive

    def shutdown(self) -> None:
        """End."""
        self.alive = False


def room(blocks: int = BLOCKS, running: int = 8) -> Room:
    """Return what a local decoder holds."""
    return Room(blocks, running, depth=2, ahead=True)


def continued(
    engine: LocalDecoder, prompt: tuple[int, ...], count: int, sampling: Sampling | None = None
) -> list[SampledToken]:
    """Return the tokens after a prompt that is alone."""
    batcher = Batcher(Room(BLOCKS, 1))
    number = batcher.add(Wanted(prompt, count, sampling or Sampling()))
    found: list[SampledToken] = []
    while len(found) < count:
        batch = batcher.next(10**6)
        assert batch is not None
        outcomes = batcher.take(batch, engine.finish(engine.begin(batch)))
        found += [each.token for each in outcomes if each.token is not None]
    batcher.end(number)
    return found
