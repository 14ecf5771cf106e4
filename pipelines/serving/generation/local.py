"""A model that answers in this process, without ranks: an engine for whoever needs no Ray."""

from pathlib import Path

from actors.commands import Answering, Batch, BatchOutput
from actors.decode.rank_decoder import RankDecoder
from actors.engine.serving import Mended
from moe.checkpoint.reader import Checkpoint
from moe.nn.build import build
from moe.nn.exchange import Alone


class LocalEngine:
    """The whole model of a directory; a batch runs when it is finished."""

    def __init__(self, model: Path, how: Answering) -> None:
        checkpoint = Checkpoint.open(model)
        self._rank = RankDecoder(
            build(checkpoint.config, checkpoint.read), [0], 0, Alone(), own=True
        )
        self._rank.prepare(how)

    def weights(self) -> int | None:
        """Return None: its weights never change."""
        return None

    def begin(self, batch: Batch) -> Batch:
        """Take a batch."""
        return batch

    def finish(self, flight: Batch) -> BatchOutput:
        """Run a batch and return what came of it."""
        output = self._rank.infer(flight)
        assert output is not None
        if output.error is not None:
            raise output.error
        return output

    def mend(self) -> Mended:
        """Return at once: there is nobody to replace."""
        return Mended((), 0.0)

    def healthy(self) -> bool:
        """Return True: this process lives."""
        return True

    def shutdown(self) -> None:
        """Do nothing: its memory goes with it."""
