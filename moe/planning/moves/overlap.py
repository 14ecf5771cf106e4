"""How many bytes each rank of a new plan needs that each rank of an old one holds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from moe.config.model import ModelConfig
from moe.config.ranges import band_of, position
from moe.config.tensors import TensorSlice
from moe.planning.moves.holdings import HeldTensor, StateBytes, rank_tensors
from moe.planning.moves.hungarian import Costs
from moe.planning.plan.plan import Plan

HeldTensors = Sequence[Mapping[str, HeldTensor]]
"""For each rank of a replica, what it holds of each tensor."""


class Overlap:
    """Two plans of one model, compared rank by rank in the order of their numbers.

    ``kept`` [new ranks, old ranks] are the bytes that a rank of the new plan need not receive if
    its process is that of a rank of the old one. ``needed`` are the bytes of all that the new plan
    holds.
    """

    def __init__(self, config: ModelConfig, old: Plan, new: Plan, states: StateBytes) -> None:
        self._states = states
        before = rank_tensors(config, old, states.narrow)
        after = rank_tensors(config, new, states.narrow)
        self.kept = self._kept(old, new, before, after)
        self.needed = self._needed(after, new.replicas)

    def _kept(self, old: Plan, new: Plan, before: HeldTensors, after: HeldTensors) -> Costs:
        kept = np.zeros((len(new.seats), len(old.seats)), dtype=np.int64)
        for seat, wanted in zip(new.seats.of_replica(0), after, strict=True):
            rows = [new.seats.rank(each) for each in new.seats.data_group_of(seat)]
            for other, held in zip(old.seats.of_replica(0), before, strict=True):
                columns = [old.seats.rank(each) for each in old.seats.data_group_of(other)]
                common = wanted.keys() & held.keys()
                if common:
                    pairs = Counter(
                        (_unnamed(wanted[name]), _unnamed(held[name])) for name in common
                    )
                    table = self._common_bytes(pairs, new.replicas, old.replicas)
                    kept[np.ix_(rows, columns)] = table
        return kept

    def _common_bytes(
        self, pairs: Mapping[tuple[HeldTensor, HeldTensor], int], replicas: int, copies: int
    ) -> Costs:
        """Return the bytes [replicas, copies] that replicas of two ranks have in common."""
        total = np.zeros((replicas, copies), dtype=np.int64)
        for (wanted, held), count in pairs.items():
            band = band_of(wanted.part, held.part)
            if band is None:
                continue
            for size, cut in self._cut(wanted):
                if cut:
                    start, stop = _spans(wanted, band)
                    low, high = _spans(held, band)
                    both = np.minimum(stop[:, None], high) - np.maximum(start[:, None], low)
                    total += count * size * both.clip(min=0)
                else:
                    total += count * size * band.elements
        return total

    def _needed(self, held_tensors: HeldTensors, replicas: int) -> int:
        return sum(
            size * tensor.part.elements * (1 if cut else replicas)
            for held in held_tensors
            for tensor in held.values()
            for size, cut in self._cut(tensor)
        )

    def _cut(self, tensor: HeldTensor) -> list[tuple[int, bool]]:
        """Return the bytes of an element of each state, and whether the replicas cut that."""
        owned = bool(tensor.edges)
        return [
            (size, state in self._states.cut and owned)
            for state, size in self._states.of_element(tensor.part).items()
        ]


def _unnamed(tensor: HeldTensor) -> HeldTensor:
    """Return the same without its name, layer and expert: tensors of many layers are then equal."""
    role = replace(tensor.part.role, layer=None, expert=None)
    return replace(tensor, part=replace(tensor.part, name="", role=role))


def _spans(tensor: HeldTensor, band: TensorSlice) -> tuple[Costs, Costs]:
    """Return where the range of each replica begins and ends in a band."""
    ends = np.array([position(tensor.part, band, edge) for edge in tensor.edges], dtype=np.int64)
    return ends[:-1], ends[1:]
