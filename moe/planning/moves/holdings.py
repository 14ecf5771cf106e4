"""What each seat of a plan holds: parts of tensors as weights, ranges as moments and as masters.

Ownership is that of the actors' buckets (``moe.planning.layout``). Under ZeRO the replicas cut the
optimiser's states from stage 1 on, and in stage 3 the weights too; the actors do stage 1. A tensor
that is not trained lies in no bucket: every replica holds it whole and there are no states of it.
Every member of a gang that holds a tensor has states for it, and so has either end of a tied
embedding.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from moe.config.model import ModelConfig
from moe.config.ranges import TensorRange
from moe.config.tensors import TensorSlice, held_by
from moe.planning.counts.workload import Workload
from moe.planning.layout.buckets import bucket_layouts
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

State = Literal["weights", "optimizer", "masters"]
STATES: tuple[State, ...] = ("weights", "optimizer", "masters")

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


Holding = Mapping[State, Ranges]
"""What one seat holds of each state."""

NOTHING: Holding = {state: {} for state in STATES}


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes of one element of each state, and which states the replicas cut among themselves.

    ``exact`` are those of an element of a norm, a bias or a gate, which has no master. ``narrow``
    says whether matrices have masters apart from the optimiser's other states.
    """

    sizes: Mapping[State, int]
    exact: Mapping[State, int]
    cut: frozenset[State]
    narrow: bool

    @classmethod
    def of(cls, workload: Workload) -> "StateBytes":
        """Return what a workload says; without training there are float32 weights alone."""
        since: dict[State, int] = {"optimizer": 1, "masters": 1, "weights": 3}
        cut = frozenset(state for state in STATES if workload.zero >= since[state])
        numerics = workload.stored
        weight, moments = numerics.exact
        if not workload.training:
            served: dict[State, int] = {"weights": weight}
            return cls(served, served, cut, narrow=False)
        exact: dict[State, int] = {"weights": weight, "optimizer": moments}
        if not numerics.narrow:
            return cls(exact, exact, cut, narrow=False)
        masters = numerics.optimizer - moments
        sizes: dict[State, int] = {"weights": numerics.weight, "optimizer": moments}
        return cls(sizes | {"masters": masters}, exact, cut, narrow=True)

    def of_element(self, part: TensorSlice) -> Mapping[State, int]:
        """Return the bytes of an element of a tensor, of each state that it has and that moves.

        Frozen tensors do not move: every rank reads its own from the model.
        """
        if part.role.frozen:
            return {}
        sizes = self.exact if part.role.exact else self.sizes
        return sizes if part.role.trained else {"weights": sizes["weights"]}


def holdings(
    config: ModelConfig, plan: Plan, states: StateBytes, copied: Container[Seat] = ()
) -> dict[Seat, Holding]:
    """Return what each seat holds, in the order of the seats; of those ``copied``, their copies."""
    alone = replace(states, cut=frozenset(STATES))
    held_tensors = rank_tensors(config, plan, states.narrow)
    found: dict[Seat, Holding] = {}
    for seat in plan.seats:
        held = held_tensors[plan.seats.rank(Seat(0, seat.stage, seat.member))]
        of_seat = alone if seat in copied else states
        found[seat] = {state: _ranges(held, seat.replica, state, of_seat) for state in STATES}
    return found


def rank_tensors(config: ModelConfig, plan: Plan, narrow: bool) -> list[dict[str, HeldTensor]]:
    """Return what each rank of a replica holds of each tensor, by its name.

    ``narrow`` says whether matrices have masters, and so buckets of their own.
    """
    found = []
    for seat in plan.seats.of_replica(0):
        share = plan.share(seat)
        layouts = bucket_layouts(config, share, plan.replicas, plan.gang_size, narrow)
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
    cut, found = state in states.cut, {}
    for name, tensor in held.items():
        if state in states.of_element(tensor.part):
            own = tensor.range(replica, cut)
            if own.elements:
                found[name] = own
    return found
