"""The rows of embedding and head that one rank of a gang holds.

Every token's embedding is one rank's row and zero elsewhere, so their sum over the gang is it, to
the bit. Logits are computed by each rank over its own rows.

Shapes: D hidden, V vocabulary, W rows held.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.nn.exchange import Exchange
from moe.nn.linear import linear
from moe.nn.weights.dense import Dense


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows ``[start, stop)`` of a vocabulary of ``total`` that a gang splits."""

    start: int
    stop: int
    total: int
    exchange: Exchange

    @property
    def held(self) -> int:
        """How many rows these are."""
        return self.stop - self.start

    def local(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return row numbers counted from ``start``, and which tokens are held by another rank.

        These get row 0. What is in no vocabulary stays out of range, so that indexing refuses it.
        """
        known = (tokens >= 0) & (tokens < self.total)
        elsewhere = known & ((tokens < self.start) | (tokens >= self.stop))
        return (tokens - self.start).masked_fill(elsewhere, 0), elsewhere


def rows_of(config: ModelConfig, share: Share, exchange: Exchange) -> Rows | None:
    """Return the rows of a share, None where it holds the whole vocabulary."""
    if share.vocabulary is None or share.vocabulary == (0, config.vocab_size):
        return None
    return Rows(*share.vocabulary, config.vocab_size, exchange)


class SplitEmbedding(nn.Embedding):
    """An embedding whose rows are split over the gang."""

    def __init__(self, rows: Rows, hidden_size: int) -> None:
        super().__init__(rows.held, hidden_size)
        self.rows = rows

    def forward(self, input: Tensor) -> Tensor:  # the name torch gave it
        """Return the embedding of each token; the backward pass reaches the rows held."""
        local, elsewhere = self.rows.local(input)
        held = super().forward(local).masked_fill(elsewhere[..., None], 0.0)
        return self.rows.exchange.leave(held)


def split_logits(x: Tensor, head_WD: Tensor, rows: Rows) -> Tensor:
    """Return the logits of the whole vocabulary on every rank, brought together by a sum."""
    (x,) = rows.exchange.enter(x)
    padding = (rows.start, rows.total - rows.stop)
    return rows.exchange.leave(F.pad(linear(x, Dense(head_WD)), padding))
