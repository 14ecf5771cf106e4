"""What adapters add to the products of a pass (``moe.config.adapters``).

The rows of a pass that use an adapter stand together, so an adapter costs each operand that it adds
to two narrow products over its rows, and the rest of the pass nothing. The narrow matrices are kept
as the weights are, with 16 bits in place of 8: a row's result depends on its neighbours no more
than it does without adapters.

Shapes: M rows, N outputs, K inputs, R rank.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from moe.config.answering import WeightKind
from moe.nn.factors import Factors
from moe.nn.inference.operands import Operand, Prepared, pack

NARROW: Mapping[WeightKind, WeightKind] = {"int8": "fp16"}
"""How the matrices of adapters are kept where not as the weights are."""

BYTES: Mapping[WeightKind, int] = {"fp32": 4, "fp16": 2, "int8": 2}
"""Bytes of each of their numbers, by the kind of the weights."""


class Span(NamedTuple):
    """The rows ``[start, stop)`` of a pass, which use one adapter."""

    adapter: int
    start: int
    stop: int


Spans = Sequence[Span]
"""The rows that use adapters, in rising order; those of the model itself are in none."""


class _LowRank(NamedTuple):
    down: Operand
    up: Operand

    def product(self, rows: Prepared) -> Tensor:
        """Return ``B A x`` [M, N]; rows may be prepared for any kind of weights."""
        inner_MR = self.down.product(self.down.prepared(rows.x_MK))
        if rows.scale_M1 is not None:
            inner_MR = inner_MR * rows.scale_M1
        return self.up.product(self.up.prepared(inner_MR))


class _Standing(NamedTuple):
    """Factors that are trained beside a weight, whose outputs begin at ``first`` of the operand."""

    factors: Factors
    first: int

    def add(self, y_MN: Tensor, rows: Prepared) -> None:
        """Add what the factors give as they are now."""
        found = self.factors(rows.x_MK)
        y_MN[:, self.first : self.first + found.shape[1]] += found


class Additions:
    """What every adapter adds to the product of one operand, and what is trained beside it adds to
    all rows.
    """

    def __init__(self, kind: WeightKind) -> None:
        self._kind: WeightKind = NARROW.get(kind, kind)
        self._of: dict[int, _LowRank] = {}
        self._standing: list[_Standing] = []

    def stand(self, factors: Factors, first: int) -> None:
        """Add to all rows, from the output ``first`` on, what factors in training give."""
        self._standing.append(_Standing(factors, first))

    def put(self, adapter: int, down_RK: Tensor, up_NR: Tensor) -> None:
        """Keep the matrices of an adapter."""
        self._of[adapter] = _LowRank(pack(self._kind, [down_RK]), pack(self._kind, [up_NR]))

    def drop(self, adapter: int) -> None:
        """Forget an adapter, if it adds anything."""
        self._of.pop(adapter, None)

    def to(self, y_MN: Tensor, rows: Prepared, spans: Spans) -> Tensor:
        """Return y, to which is added what the adapters of the rows add."""
        for each in self._standing:
            each.add(y_MN, rows)
        for adapter, start, stop in spans:
            low_rank = self._of.get(adapter)
            if low_rank is not None:
                y_MN[start:stop] += low_rank.product(rows.part(start, stop))
        return y_MN


def spans_of(adapters: Iterable[tuple[int, int]]) -> Spans:
    """Return the spans of rows, given as (adapter, how many); 0 is the model itself."""
    found: list[Span] = []
    start = 0
    for adapter, count in adapters:
        if found and found[-1].adapter == adapter and found[-1].stop == start:
            found[-1] = found[-1]._replace(stop=start + count)
        elif adapter:
            found.append(Span(adapter, start, start + count))
        start += count
    return tuple(found)


def adapters_of(spans: Spans, rows: int) -> list[int]:
    """Return the adapter of each of so many rows."""
    found = [0] * rows
    for adapter, start, stop in spans:
        found[start:stop] = [adapter] * (stop - start)
    return found
