"""Losses by an engine that answers: the ranks of a plan, or a model in this process."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from actors.commands import Batch, BatchOutput, Feed
from moe.nn.inference.rows import BLOCK
from pipelines.models.scoring.mending import LOST, Mending
from pipelines.models.scoring.pieces import Measured, Piece
from pipelines.serving.generation.engine import Engine


class _Begun(NamedTuple):
    piece: Piece
    flight: Any


class RankMeter:
    """Measures pieces on an engine; ``depth`` of them are under way at once.

    Ranks that are lost are replaced, and what was under way begins anew.
    """

    def __init__(self, engine: Engine[Any], depth: int) -> None:
        self._engine = engine
        self._depth = depth
        self._mending = Mending(engine)
        self._batches = 0

    def measure(self, pieces: Iterable[Piece]) -> Iterator[Measured]:
        """Yield what is measured of each piece."""
        coming, begun = iter(pieces), deque[_Begun]()
        while True:
            while len(begun) < self._depth and (piece := next(coming, None)) is not None:
                begun.append(self._begin(piece))
            if not begun:
                return
            try:
                output = self._engine.finish(begun[0].flight)
            except LOST as error:
                self._mending.mend(error)
                begun = deque(self._begin(each.piece) for each in begun)
                continue
            self._mending.went_well()
            yield _measured(begun.popleft().piece, output)

    def _begin(self, piece: Piece) -> _Begun:
        """Begin a piece as one batch.

        Ranks run one batch after the other, so all use the same blocks: keys and values of a piece
        are needed in its own pass alone.
        """
        self._batches += 1
        length = piece.tokens.shape[1]
        blocks = blocks_of(length)
        feeds = tuple(
            Feed(
                sequence,
                tuple(tokens),
                position=0,
                table=tuple(range(sequence * blocks, (sequence + 1) * blocks)),
                draws=False,
                targets=tuple(tokens[1:]),
            )
            for sequence, tokens in enumerate(piece.tokens.tolist())
        )
        return _Begun(piece, self._engine.begin(Batch(self._batches, feeds, watched=True)))


def blocks_of(tokens: int) -> int:
    """Return the blocks of keys and values of a sequence."""
    return -(-tokens // BLOCK)


def _measured(piece: Piece, output: BatchOutput) -> Measured:
    losses = np.zeros(piece.tokens.shape)
    for sequence, tokens in output.scored.items():
        losses[sequence, :-1] = [-each.logprob for each in tokens]
    return Measured(piece, np.where(piece.counted, losses, 0.0), output.routers)
