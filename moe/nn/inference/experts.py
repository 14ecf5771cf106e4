"""The experts of one layer over the rows of a pass: every busy expert's weights are read once.

The host knows which row goes to which expert, as it does in the bank of a CPU
(``moe.nn.experts.loop``). A token's experts are added in the order of their numbers, whatever other
rows there are.

Shapes: T rows, K experts per row, A pairs of this rank, D hidden, F expert columns.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moe.config.answering import WeightKind
from moe.config.role import ModelPart
from moe.nn.experts.experts import Experts
from moe.nn.feed_forward import FeedForward
from moe.nn.inference.adapters import Additions, Spans, adapters_of, spans_of
from moe.nn.inference.operands import Operand, Prepared, move_together, pack
from moe.nn.linear import Linear


class SwiGlu(NamedTuple):
    """One expert or feed-forward: gate above up with their biases, if any, and down without."""

    gate_up: Operand
    down: Operand
    to_gate_up: Additions
    to_down: Additions
    biases: "Biases | None" = None

    @classmethod
    def of(cls, layer: FeedForward, kind: WeightKind, own: bool) -> "SwiGlu":
        """Pack a feed-forward; with ``own``, its parameters may be moved."""
        layers = (layer.gate_proj, layer.up_proj)
        gate_up = [each.weight for each in layers]
        if own:
            move_together(gate_up)
        down = pack(kind, (layer.down_proj.weight,))
        added = Additions(kind), Additions(kind)
        return cls(pack(kind, gate_up), down, *added, Biases.of(layers, own))

    @property
    def operands(self) -> tuple[Operand, Operand]:
        """The packed weights."""
        return self.gate_up, self.down

    def additions(self, part: ModelPart) -> Additions:
        """Return what adapters add to gate and up, or to down."""
        return self.to_down if part == "down" else self.to_gate_up

    def apply(self, rows: Prepared, spans: Spans = ()) -> Tensor:
        """Return ``down(silu(gate(x)) * up(x))``."""
        inner = self.to_gate_up.to(self.gate_up.product(rows), rows, spans)
        if self.biases is not None:
            inner = self.biases.added(inner)
        gate, up = inner.chunk(2, dim=1)
        between = self.down.prepared(F.silu(gate).mul_(up))
        return self.to_down.to(self.down.product(between), between, spans)


class Biases(NamedTuple):
    """The biases of layers side by side: the parameters themselves where they may be in training,
    else one copy.
    """

    parts: tuple[Tensor, ...]

    @classmethod
    def of(cls, layers: Sequence[Linear], own: bool) -> "Biases | None":
        """Return the biases of layers, which never change with ``own``; None where they have
        none.
        """
        found = tuple(each.bias.detach() for each in layers if each.bias is not None)
        if not found:
            return None
        return cls((torch.cat(found),) if own else found)

    def added(self, x_MN: Tensor) -> Tensor:
        """Return rows with the biases added, in the type of the rows."""
        whole_N = self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)
        return x_MN + whole_N.to(x_MN.dtype)


class HeldExperts:
    """The experts of a layer that this rank holds.

    ``load`` counts the rows that each of the ``count`` experts of the layer was chosen for, held
    here or elsewhere; a rank without experts counts nothing.
    """

    def __init__(self, experts: Experts, kind: WeightKind, own: bool, count: int) -> None:
        self.load = [0] * count
        self._experts: dict[int, SwiGlu] = {}
        for number in experts.numbers:
            layer = experts[str(number)]
            assert isinstance(layer, FeedForward)
            self._experts[number] = SwiGlu.of(layer, kind, own)
        self._first = next(iter(self._experts.values()), None)

    def __iter__(self) -> Iterator[SwiGlu]:
        yield from self._experts.values()

    def additions(self, expert: int, part: ModelPart) -> Additions:
        """Return what adapters add to a product of a held expert."""
        return self._experts[expert].additions(part)

    def exchange(self, leaving: Collection[int], coming: Mapping[int, SwiGlu]) -> None:
        """Hold other experts, between two passes."""
        for number in leaving:
            del self._experts[number]
        self._experts |= coming
        self._first = next(iter(self._experts.values()), None)

    def take_load(self) -> tuple[int, ...]:
        """Return what was counted since the last time."""
        found, self.load = tuple(self.load), [0] * len(self.load)
        return found

    def mix(
        self, x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, spans: Spans = ()
    ) -> Tensor:
        """Return the weighted sum of the held experts of each row, [T, D]."""
        if self._first is None:
            return torch.zeros_like(x_TD)
        rows = self._first.gate_up.prepared(x_TD)
        if len(x_TD) == 1:
            pairs = zip(experts_TK[0].tolist(), weights_TK[0].tolist(), strict=True)
            return self._one(rows, sorted(pairs), spans)
        return self._many(rows, experts_TK, weights_TK, spans)

    def _one(self, rows: Prepared, pairs: Sequence[tuple[int, float]], spans: Spans) -> Tensor:
        sum_1D: Tensor | None = None
        for number, weight in pairs:
            self.load[number] += 1
            expert = self._experts.get(number)
            if expert is not None:
                own = expert.apply(rows, spans).float()
                sum_1D = own.mul_(weight) if sum_1D is None else sum_1D.add_(own, alpha=weight)
        return torch.zeros_like(rows.x_MK, dtype=torch.float32) if sum_1D is None else sum_1D

    def _many(self, rows: Prepared, experts_TK: Tensor, weights_TK: Tensor, spans: Spans) -> Tensor:
        top_k = experts_TK.shape[1]
        numbers_A, order_A = experts_TK.flatten().sort(stable=True)
        tokens_A = order_A // top_k
        weights_A1 = weights_TK.flatten().index_select(0, order_A)[:, None]
        x = rows.take(tokens_A)
        y_TD = torch.zeros_like(rows.x_MK, dtype=torch.float32)
        adapters = adapters_of(spans, len(experts_TK)) if spans else []
        users_A = [adapters[token] for token in tokens_A.tolist()] if spans else []
        for number, start, stop in _spans(numbers_A.tolist()):
            self.load[number] += stop - start
            expert = self._experts.get(number)
            if expert is not None:
                own = spans_of((user, 1) for user in users_A[start:stop])
                y_RD = expert.apply(x.part(start, stop), own) * weights_A1[start:stop]
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
