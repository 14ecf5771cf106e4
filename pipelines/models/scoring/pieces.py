"""What a model reads at a time: sequences of one length, with what is to be predicted."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.commands import RouterReport
from pipelines.corpus.shards import IGNORED


class Piece(NamedTuple):
    """Tokens [B, L] to read together, and ``labels`` [B, L], the token after each; a label of -100
    does not count. ``rows`` [B, L] are the rows of the shards that the labels come from.
    """

    tokens: NDArray[np.int32]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Which labels count."""
        counted: NDArray[np.bool_] = self.labels != IGNORED
        return counted


class Measured(NamedTuple):
    """Losses [B, L] of a piece in nats, 0 where no label counts, and what the routers did, by
    layer.
    """

    piece: Piece
    losses: NDArray[np.float64]
    routers: Mapping[int, RouterReport]


class Meter(Protocol):
    """A model that measures pieces, in their order."""

    def measure(self, pieces: Iterable[Piece]) -> Iterator[Measured]:
        """Yield what is measured of each piece."""
