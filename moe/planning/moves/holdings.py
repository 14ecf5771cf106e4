"""What each seat of a plan holds: parts of tensors as weights, ranges of them as moments.

Ownership is that of the actors' buckets (``moe.planning.layout``). Under ZeRO the replicas cut the
optimiser's states from stage 1 on, and in stage 3 the weights too; the actors do stage 1. A tensor
that is not trained lies in no bucket: every replica holds it whole and there are no states of it.
Every member of a gang that holds a tensor has states for it, and so has either end of a tied
embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from moe.config.model import ModelConfig
from moe.config.ranges import TensorRange
from moe.config.tensors import TensorSlice, held_by
from moe.planning.counts.workload import Workload
from moe.planning.layout.buckets import bucket_layouts
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

State = Literal["weights", "optimizer"]
STATES: tuple[State, ...] = ("weights", "optimizer")

Ranges = Mapping[str, TensorRange]
"""At most one range of each tensor, by its name."""


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """What one rank of every replica holds of a tensor.

    Replica r owns elements ``edges[r]`` to ``edges[r + 1]`` of the part; there are no edges where
    nothing is owned because nobody trains the tensor.
    """

    part: TensorSlice
    edges: tuple[int, ...]

    def range(self, replica: int, cut: bool) -> TensorRange:
        """Return what a replica holds: its own range where the tensor is ``cut``, else all."""
        if cut and self.edges:
            return TensorRange(self.part, *self.edges[replica : replica + 2])
        return TensorRange(self.part, 0, self.part.elements)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one seat holds."""

    weights: Ranges
    optimizer: Ranges

    def of(self, state: State) -> Ranges:
        """Return the ranges of weights, or of the optimiser's states."""
        return self.weights if state == "weights" else self.optimizer


NOTHING = Holding({}, {})


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes of one element of each state, and which states the replicas cut among themselves."""

    sizes: Mapping[State, int]
    cut: frozenset[State]

    @classmethod
    def of(cls, workload: Workload) -> "StateBytes":
        """Return what a workload says; without training there are no optimiser's states."""
        sizes: dict[State, int] = {"weights": workload.numerics.weight}
        if workload.training:
            sizes["optimizer"] = workload.numerics.optimizer
        since: dict[State, int] = {"optimizer": 1, "weights": 3}
        return cls(sizes, frozenset(each for each in sizes if workload.zero >= since[each]))


def holdings(config: ModelConfig, plan: Plan, states: StateBytes) -> dict[Seat, Holding]:
    """Return what each seat holds, in the order of the seats."""
    held_tensors = rank_tensors(config, plan)
    found = {}
    for seat in plan.seats:
        held = held_tensors[plan.seats.rank(Seat(0, seat.stage, seat.member))]
        ranges = {state: _ranges(held, seat.replica, state, states) for state in STATES}
        found[seat] = Holding(ranges["weights"], ranges["optimizer"])
    return found


def rank_tensors(config: ModelConfig, plan: Plan) -> list[dict[str, HeldTensor]]:
    """Return what each rank of a replica holds of each tensor, by its name."""
    found = []
    for seat in plan.seats.of_replica(0):
        share = plan.share(seat)
        layouts = bucket_layouts(config, share, plan.replicas, plan.gang_size, narrow=False)
        edges = {slot.part.name: layout.edges(slot) for layout in layouts for slot in layout.slots}
        found.append(
            {
                part.name: HeldTensor(part, edges.get(part.name, ()))
                for part in held_by(config, share)
                if part.elements
            }
        )
    return found


def _ranges(
    held: Mapping[str, HeldTensor], replica: int, state: State, states: StateBytes
) -> dict[str, TensorRange]:
    if state not in states.sizes:
        return {}
    cut, found = state in states.cut, {}
    for name, tensor in held.items():
        if state == "weights" or tensor.edges:
            own = tensor.range(replica, cut)
            if own.elements:
                found[name] = own
    return found
