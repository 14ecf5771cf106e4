"""What each device holds under a plan: spans of tensors, as weights and as optimiser states.

Elements of a tensor are numbered along the dimension by which gangs cut it: row after row, or, of
weights whose input is cut (o_proj, down_proj), column after column. So a rank holds of a tensor one
span [a, b) of numbers that no plan changes. Of n = b - a elements in d replicas, replica j keeps

    [a + j n / d,  a + (j + 1) n / d)                   each end rounded down

under ZeRO: of the optimiser's states from stage 1, of the weights in stage 3. This is how bytes are
counted, as if every tensor were cut alone. The actors cut flat buckets of many tensors into even
slices instead, so a replica's part of one tensor may be anything from nothing to all of it; over
the tensors of a rank both come to the same bytes. Every member of a
gang that holds a tensor has states for it, and so has either end of a tied embedding.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, held_by, tensors
from moe.planning.counts.workload import Workload
from moe.planning.plan.plan import Plan

State = Literal["weights", "optimizer"]
Interval = tuple[int, int]
Intervals = tuple[Interval, ...]
"""Ascending, and apart from each other."""


@dataclass(frozen=True, slots=True)
class Span:
    """Elements ``start`` to ``stop`` of a tensor, numbered along the dimension that is cut."""

    tensor: TensorSlice
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The name of the tensor."""
        return self.tensor.name

    @property
    def elements(self) -> int:
        """How many they are."""
        return self.stop - self.start

    @property
    def part(self) -> TensorSlice | None:
        """The same as a slice; None where a row (or column) is not whole, as ZeRO may leave it."""
        shape, dim = self.tensor.shape, self.tensor.role.cut or 0
        row = prod(shape) // shape[dim]
        if self.start % row or self.stop % row:
            return None
        return self.tensor.span(dim, self.start // row, self.stop // row)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one device holds of each tensor, by name."""

    weights: Mapping[str, Intervals]
    optimizer: Mapping[str, Intervals]

    def of(self, state: State) -> Mapping[str, Intervals]:
        """Return the spans of weights, or of optimiser states."""
        return self.weights if state == "weights" else self.optimizer


NOTHING = Holding({}, {})


def holdings(config: ModelConfig, plan: Plan, workload: Workload) -> dict[str, Holding]:
    """Return what each device holds, in the order of the plan's ranks, then of their replicas.

    A device that stands for several ranks holds what any of them does.
    """
    parts, gathered = rank_parts(config, plan), dict[str, list[Holding]]()
    table = tensor_table(config)
    for number, part in enumerate(parts):
        names = plan.rank(number).devices
        whole: dict[str, Intervals] = {name: (span,) for name, span in part.items()}
        for replica, device in enumerate(names):
            shard: dict[str, Intervals] = {
                name: (found,)
                for name, span in part.items()
                if (found := shard_of(span, replica, len(names)))[0] < found[1]
            }
            weights = shard if workload.zero >= 3 else whole
            states = shard if workload.zero >= 1 else whole
            trained = {name: held for name, held in states.items() if table[name].role.trained}
            held = Holding(weights, trained if workload.training else {})
            gathered.setdefault(device, []).append(held)
    return {device: _united(held) for device, held in gathered.items()}


def rank_parts(config: ModelConfig, plan: Plan) -> list[dict[str, Interval]]:
    """Return for each rank the span it holds of each tensor, all its replicas together."""
    return [
        {
            part.name: span
            for part in held_by(config, plan.share(number))
            if (span := _interval(part))[0] < span[1]
        }
        for number in range(plan.ranks)
    ]


def shard_of(span: Interval, replica: int, replicas: int) -> Interval:
    """Return what one replica keeps of a span that ZeRO spreads over all."""
    start, elements = span[0], span[1] - span[0]
    return start + replica * elements // replicas, start + (replica + 1) * elements // replicas


def tensor_table(config: ModelConfig) -> dict[str, TensorSlice]:
    """Return every tensor by its name."""
    return {tensor.name: tensor for tensor in tensors(config)}


def missing(wanted: Intervals, held: Intervals) -> Iterator[Interval]:
    """Yield what is wanted and not held."""
    for start, stop in wanted:
        for low, high in held:
            if high <= start or stop <= low:
                continue
            if start < low:
                yield start, low
            start = high
        if start < stop:
            yield start, stop


def state_sizes(workload: Workload) -> dict[State, int]:
    """Return the bytes of an element's weight and optimiser states."""
    return {"weights": workload.numerics.weight, "optimizer": workload.numerics.optimizer}


def missing_bytes(wanted: Holding, held: Holding, workload: Workload) -> int:
    """Return the bytes of what is wanted and not held."""
    return sum(
        size * (stop - start)
        for state, size in state_sizes(workload).items()
        for name, spans in wanted.of(state).items()
        for start, stop in missing(spans, held.of(state).get(name, ()))
    )


def _interval(part: TensorSlice) -> Interval:
    if part.dim is None:
        return 0, part.elements
    row = prod(part.shape) // part.shape[part.dim]
    return part.start * row, part.stop * row


def _united(holdings: list[Holding]) -> Holding:
    """Return what a device holds that stands for several ranks."""
    if len(holdings) == 1:
        return holdings[0]
    return Holding(
        _merged(held.weights for held in holdings), _merged(held.optimizer for held in holdings)
    )


def _merged(maps: Iterable[Mapping[str, Intervals]]) -> dict[str, Intervals]:
    gathered: dict[str, list[Interval]] = {}
    for held in maps:
        for name, spans in held.items():
            gathered.setdefault(name, []).extend(spans)
    return {name: _joined(sorted(spans)) for name, spans in gathered.items()}


def _joined(spans: list[Interval]) -> Intervals:
    joined = spans[:1]
    for start, stop in spans[1:]:
        if start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return tuple(joined)
