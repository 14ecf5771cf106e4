"""The experts of one layer over the rows of a pass: every busy expert's weights are read once.

The host knows which row goes to which expert, as it does in the bank of a CPU
(``moe.nn.experts.loop``). A token's experts are added in the order of their numbers, whatever other
rows there are.

Shapes: T rows, K experts per row, A pairs of this rank, D hidden, F expert columns.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moe.config.answering import WeightKind
from moe.nn.experts.experts import Experts
from moe.nn.feed_forward import FeedForward
from moe.nn.inference.operands import Operand, Prepared, move_together, pack
from moe.nn.linear import Linear


class SwiGlu(NamedTuple):
    """One expert or feed-forward: gate above up with their biases, if any, and down without."""

    gate_up: Operand
    down: Operand
    bias_N: Tensor | None = None

    @classmethod
    def of(cls, layer: FeedForward, kind: WeightKind, own: bool) -> "SwiGlu":
        """Pack a feed-forward; with ``own``, its parameters may be moved."""
        layers = (layer.gate_proj, layer.up_proj)
        gate_up = [each.weight for each in layers]
        if own:
            move_together(gate_up)
        down = pack(kind, (layer.down_proj.weight,))
        return cls(pack(kind, gate_up), down, biases(layers))

    @property
    def operands(self) -> tuple[Operand, Operand]:
        """The packed weights."""
        return self.gate_up, self.down

    def apply(self, rows: Prepared) -> Tensor:
        """Return ``down(silu(gate(x)) * up(x))``."""
        inner = self.gate_up.product(rows)
        if self.bias_N is not None:
            inner = inner + self.bias_N.to(inner.dtype)
        gate, up = inner.chunk(2, dim=1)
        return self.down.product(self.down.prepared(F.silu(gate).mul_(up)))


def biases(layers: Sequence[Linear]) -> Tensor | None:
    """Return the biases of layers side by side; None where they have none."""
    found = [each.bias.detach() for each in layers if each.bias is not None]
    return torch.cat(found) if found else None


class HeldExperts:
    """The experts of a layer that this rank holds."""

    def __init__(self, experts: Experts, kind: WeightKind, own: bool) -> None:
        self._experts: dict[int, SwiGlu] = {}
        for number in experts.numbers:
            layer = experts[str(number)]
            assert isinstance(layer, FeedForward)
            self._experts[number] = SwiGlu.of(layer, kind, own)
        self._first = next(iter(self._experts.values()), None)

    def __iter__(self) -> Iterator[SwiGlu]:
        yield from self._experts.values()

    def mix(self, x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        """Return the weighted sum of the held experts of each row, [T, D]."""
        if self._first is None:
            return torch.zeros_like(x_TD)
        rows = self._first.gate_up.prepared(x_TD)
        if len(x_TD) == 1:
            return self._one(rows, experts_TK[0].tolist(), weights_TK[0].tolist())
        return self._many(rows, experts_TK, weights_TK)

    def _one(self, rows: Prepared, experts: Sequence[int], weights: Sequence[float]) -> Tensor:
        sum_1D: Tensor | None = None
        for number, weight in sorted(zip(experts, weights, strict=True)):
            expert = self._experts.get(number)
            if expert is not None:
                own = expert.apply(rows).float()
                sum_1D = own.mul_(weight) if sum_1D is None else sum_1D.add_(own, alpha=weight)
        return torch.zeros_like(rows.x_MK, dtype=torch.float32) if sum_1D is None else sum_1D

    def _many(self, rows: Prepared, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        top_k = experts_TK.shape[1]
        numbers_A, order_A = experts_TK.flatten().sort(stable=True)
        tokens_A = order_A // top_k
        weights_A1 = weights_TK.flatten().index_select(0, order_A)[:, None]
        x = rows.take(tokens_A)
        y_TD = torch.zeros_like(rows.x_MK, dtype=torch.float32)
        for number, start, stop in _spans(numbers_A.tolist()):
            expert = self._experts.get(number)
            if expert is not None:
                y_RD = expert.apply(x.part(start, stop)) * weights_A1[start:stop]
                y_TD.index_add_(0, tokens_A[start:stop], y_RD.float())
        return y_TD


def _spans(numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (number, start, stop) of every run of equal numbers."""
    found: list[tuple[int, int, int]] = []
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[start]:
            found.append((numbers[start], start, place))
            start = place
    return found
