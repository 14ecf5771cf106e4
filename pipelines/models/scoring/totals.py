"""Losses added up over a text: in all, by domain, and as transformers' recipe weighs windows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.models.scoring.pieces import Piece

NATS_PER_BIT = math.log(2)


@dataclass(frozen=True, slots=True)
class TextLoss:
    """Loss in nats per token over ``tokens`` predictions, whose text has so many ``bytes``; None
    where that is not known.
    """

    loss: float
    tokens: int
    bytes: int | None = None

    @property
    def perplexity(self) -> float:
        """Exponential of the loss."""
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float | None:
        """The loss of all tokens in bits, over the bytes of their text; None where none is known.

        It compares models with different tokenizers.
        """
        if not self.bytes:
            return None
        return self.loss * self.tokens / self.bytes / NATS_PER_BIT

    @property
    def figures(self) -> dict[str, float | int | None]:
        """All numbers, for a JSON file."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity if math.isfinite(self.perplexity) else None,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "bits_per_byte": self.bits_per_byte,
        }


def perplexity(loss: float) -> float:
    """Return the exponential of a loss; infinity if it exceeds a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


class Totals:
    """Adds up the losses of pieces by domain; ``domains`` gives that of each of some rows."""

    def __init__(
        self,
        domains: Callable[[NDArray[np.int64]], list[str]],
        sizes: NDArray[np.int64] | None,
    ) -> None:
        self._domains = domains
        self._sizes = sizes
        self._sums: dict[str, _Sum] = {}
        self._weighed = self._weights = 0.0

    def add(self, piece: Piece, losses: NDArray[np.float64]) -> None:
        """Add a piece and its losses [B, L]."""
        counted = piece.counted
        rows = np.unique(piece.rows[counted])
        for row, domain in zip(rows, self._domains(rows), strict=True):
            which = counted & (piece.rows == row)
            size = 0 if self._sizes is None else int(self._sizes[piece.labels[which]].sum())
            own = _Sum(float(losses[which].sum()), int(which.sum()), size)
            self._sums[domain] = self._sums.get(domain, _Sum()).plus(own)
        for own_losses, own_labels in zip(losses, counted, strict=True):
            self._weigh(float(own_losses.sum()), int(own_labels.sum()))

    @property
    def whole(self) -> TextLoss | None:
        """The loss over everything; None where no label counted."""
        found = _Sum()
        for each in self._sums.values():
            found = found.plus(each)
        return self._of(found) if found.tokens else None

    @property
    def by_domain(self) -> Mapping[str, TextLoss]:
        """The loss over the rows of each domain."""
        return {name: self._of(found) for name, found in sorted(self._sums.items())}

    @property
    def recipe_loss(self) -> float | None:
        """The loss as the script on transformers' page weighs windows.

        The script counts one label fewer than it predicts, except in the first window.
        """
        return self._weighed / self._weights if self._weights else None

    def _weigh(self, loss: float, count: int) -> None:
        weight = count - 1 if self._weights else count
        if count:
            self._weighed += loss / count * weight
            self._weights += weight

    def _of(self, found: "_Sum") -> TextLoss:
        size = None if self._sizes is None else found.bytes
        return TextLoss(found.loss / found.tokens, found.tokens, size)


@dataclass(frozen=True, slots=True)
class _Sum:
    loss: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def plus(self, other: "_Sum") -> "_Sum":
        return _Sum(self.loss + other.loss, self.tokens + other.tokens, self.bytes + other.bytes)
