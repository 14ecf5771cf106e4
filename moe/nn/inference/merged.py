"""The experts of one layer over the rows of a pass, merged for pieces of it.

Many rows that are routed alike pass one feed-forward, which is merged for them. A few rows, such as
the next token of each sequence, would make a feed-forward each: the sums over the experts are then
taken of their products in place of their weights, which is the same function, and every expert is
read once for all of these rows::

    gate(x) = sum_i e_i (G_i x),  up(x) alike,  h = silu(gate(x)) * up(x),  y = sum_i e_i (D_i h)

Packed weights are never merged: sums of rounded numbers would have to be rounded again.

Shapes: T rows, M rows of some pieces, N experts, P pieces, D hidden, F columns held.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from moe.config.answering import WeightKind
from moe.nn.exchange import Exchange
from moe.nn.experts.merged import MergedExperts, merged
from moe.nn.feed_forward import FeedForward
from moe.nn.inference.operands import Operand, pack
from moe.nn.inference.pieces import Piece
from moe.nn.inference.rows import Rows
from moe.nn.inference.store import LayerStore
from moe.nn.merged_mixture import MergedMixture
from moe.nn.product import product

MERGED_FROM = 16
"""Rows that are routed alike from which on their experts are merged. One thread, 8 experts of the
widths of SmolLM2-135M, processor time on a busy machine: 5.2 ms merged for 16 rows, and 8.6 ms
summed; 6.8 ms summed for 8 rows, whether they are of one sequence or of 8.
"""


class MergedRows:
    """The gate of a layer and the held columns of its experts."""

    def __init__(self, layer: MergedMixture, kind: WeightKind) -> None:
        self._router = layer.router
        self._exchange: Exchange = layer.exchange
        self._stacks = _stacks(layer.experts) if kind == "fp32" else None
        self._gate_up: list[Operand] = []
        self._down: list[Operand] = []
        for number in layer.experts.numbers:
            expert = layer.experts[str(number)]
            assert isinstance(expert, FeedForward)
            above = [expert.gate_proj.weight, expert.up_proj.weight]
            self._gate_up.append(pack(kind, above))
            self._down.append(pack(kind, [expert.down_proj.weight]))

    @property
    def operands(self) -> list[Operand]:
        """All packed weights."""
        return [*self._gate_up, *self._down]

    def forward(self, x_TD: Tensor, rows: Rows, store: LayerStore) -> Tensor:
        """Return the outputs of the rows; what their gates give is kept."""
        exact_TD = x_TD.to(torch.promote_types(x_TD.dtype, torch.float32))
        gates_CN = store.gates
        assert gates_CN is not None
        gates_CN.index_copy_(0, rows.places, self._router(exact_TD))
        weights_PN = torch.stack([each.weights(gates_CN) for each in rows.pieces])
        y_TD = torch.empty_like(x_TD, dtype=torch.float32)
        few: list[int] = []
        for number, piece in enumerate(rows.pieces):
            if self._stacks is None or piece.count < MERGED_FROM:
                few.append(number)
                continue
            own = slice(piece.start, piece.stop)
            y_TD[own] = self._merged(x_TD[own], weights_PN[number : number + 1])
        if few:
            at_M = _rows_of([rows.pieces[number] for number in few], x_TD.device)
            counts_P = [rows.pieces[number].count for number in few]
            repeats_P = torch.tensor(counts_P, device=x_TD.device)
            weights_MN = weights_PN[few].repeat_interleave(repeats_P, dim=0)
            y_TD.index_copy_(0, at_M, self._summed(x_TD.index_select(0, at_M), weights_MN))
        return self._exchange.leave(y_TD)

    def _merged(self, x_MD: Tensor, weights_1N: Tensor) -> Tensor:
        """Return the outputs of rows that are routed alike."""
        assert self._stacks is not None
        gate_up, down = (merged(weights_1N, stack, stack.dtype)[0] for stack in self._stacks)
        gate_MF, up_MF = product(x_MD.to(gate_up.dtype), gate_up).chunk(2, dim=1)
        return product(F.silu(gate_MF).mul_(up_MF), down).float()

    def _summed(self, x_MD: Tensor, weights_MN: Tensor) -> Tensor:
        """Return the outputs of rows, each with weights of its own."""
        inner_ME = _sum(self._gate_up, x_MD, weights_MN)
        gate_MF, up_MF = inner_ME.chunk(2, dim=1)
        return _sum(self._down, F.silu(gate_MF).mul_(up_MF), weights_MN)


def _sum(operands: Sequence[Operand], x_MK: Tensor, weights_MN: Tensor) -> Tensor:
    """Return the sums of the products with all operands, weighed by row, in float32."""
    rows, sums = operands[0].prepared(x_MK), None
    for number, operand in enumerate(operands):
        own = operand.product(rows).float() * weights_MN[:, number : number + 1]
        sums = own if sums is None else sums.add_(own)
    assert sums is not None
    return sums


def _stacks(experts: MergedExperts) -> tuple[Tensor, Tensor]:
    """Return gates above ups and downs over the parameters' memory."""
    gate_up, down = experts.in_stacks()
    return gate_up.value.detach(), down.value.detach()


def _rows_of(pieces: Sequence[Piece], device: torch.device) -> Tensor:
    at = [row for piece in pieces for row in range(piece.start, piece.stop)]
    return torch.tensor(at, device=device)
