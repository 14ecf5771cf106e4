"""The rows of embedding and head on one rank of a gang.

For every token, one rank holds the embedding row and all other ranks contribute zero, so the sum
over the gang equals the row to the bit. Each rank computes the logits of its own rows.

Shapes: D hidden, V vocabulary, W rows held.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.nn.exchange import Exchange
from moe.nn.linear import linear
from moe.nn.weights.dense import Dense


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows ``[start, stop)`` of a vocabulary of ``total`` rows that a gang splits."""

    start: int
    stop: int
    total: int
    exchange: Exchange

    @property
    def held(self) -> int:
        """Number of held rows."""
        return self.stop - self.start

    def local(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return row numbers counted from ``start``, and which tokens another rank holds.

        Tokens of other ranks get row 0. A token outside the vocabulary stays out of range, so that
        indexing raises.
        """
        known = (tokens >= 0) & (tokens < self.total)
        elsewhere = known & ((tokens < self.start) | (tokens >= self.stop))
        return (tokens - self.start).masked_fill(elsewhere, 0), elsewhere


def rows_of(config: ModelConfig, share: Share, exchange: Exchange) -> Rows | None:
    """Return the rows of a share; None if it holds the full vocabulary."""
    if share.vocabulary is None or share.vocabulary == (0, config.vocab_size):
        return None
    return Rows(*share.vocabulary, config.vocab_size, exchange)


class Embedding(nn.Embedding):
    """An embedding that gives float32 and takes float32 gradients, whatever the type of its rows.

    The gradients of a frequent token are many small numbers; a sum in bfloat16 would stand still.
    """

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        """Return the row of each token, which begins the residual stream."""
        rows: Tensor = _Lookup.apply(self.weight, input)  # type: ignore[no-untyped-call]
        return rows


class SplitEmbedding(Embedding):
    """An embedding whose rows are split over the gang."""

    def __init__(self, rows: Rows, hidden_size: int) -> None:
        super().__init__(rows.held, hidden_size)
        self.rows = rows

    def forward(self, input: Tensor) -> Tensor:  # the name torch gave it
        """Return the embedding of each token; the backward pass reaches the held rows."""
        local, elsewhere = self.rows.local(input)
        held = super().forward(local).masked_fill(elsewhere[..., None], 0.0)
        return self.rows.exchange.leave(held)


def split_logits(x: Tensor, head_WD: Tensor, rows: Rows) -> Tensor:
    """Return the logits of the full vocabulary on every rank, by a sum over the gang."""
    (x,) = rows.exchange.enter(x)
    padding = (rows.start, rows.total - rows.stop)
    return rows.exchange.leave(F.pad(linear(x, Dense(head_WD)), padding))


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_WD: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.rows = len(weight_WD)
        exact = torch.promote_types(weight_WD.dtype, torch.float32)
        return F.embedding(tokens, weight_WD).to(exact)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (tokens,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.embedding_dense_backward(
            grads[0], tokens, ctx.rows, -1, False
        )
        return gradient, None
