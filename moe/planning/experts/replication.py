"""How many copies of each expert: more of the hot ones, so that a copy's share of load is small.

    next copy to the expert with the most load per copy

A rank holds an expert once, so copies are bounded: by the ranks, and if ranks have different
numbers of slots by the theorem of Gale and Ryser, with which copies counts[e] fit into slots[r] if
and only if

    sum over e of max(counts[e] - k, 0)  <=  slots of all ranks but the k largest,  for every k

The left side, the excess, only grows, so an expert that would break it is never asked again.
"""

from dataclasses import dataclass

import numpy as np

from moe.planning.experts.packing import Floats, Held, Ranks, Wholes, entries, even_out, fill


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Copies as pieces that do not know each other, so that two of an expert may share a rank.

    ``held`` [L, R, N] says where each piece is; piece n of a layer is of ``experts`` [L, N] and
    weighs ``loads`` [L, N].
    """

    held: Held
    experts: Wholes
    loads: Floats

    def evened(self, layers: Wholes, ranks: Ranks, target: Floats) -> "Pieces":
        """Return some layers with their pieces swapped until even."""
        loads = self.loads[layers]
        held = even_out(self.held[layers], loads, ranks, target)
        return Pieces(held, self.experts[layers], loads)

    def copies(self, experts: int) -> Wholes:
        """Return how many pieces of each expert each rank holds, [L, R, E]."""
        copies = np.zeros((*self.held.shape[:2], experts), dtype=np.int64)
        layer, rank, piece = entries(self.held)
        np.add.at(copies, (layer, rank, self.experts[layer, piece]), 1)
        return copies


def plain(loads: Floats, ranks: Ranks) -> Pieces:
    """Fill the slots by the plain rule: copies by the rule alone, then the heaviest piece first."""
    layers, experts = loads.shape
    total = int(ranks.slots.sum())
    counts = np.ones(loads.shape, dtype=np.int64)
    rows = np.arange(layers)
    for _ in range(total - experts):
        counts[rows, (loads / counts).argmax(axis=1)] += 1
    numbers = np.broadcast_to(np.arange(experts), loads.shape)
    names = np.repeat(numbers.ravel(), counts.ravel()).reshape(layers, total)
    weights = np.take_along_axis(loads / counts, names, axis=1)
    none = np.zeros((layers, len(ranks.slots), total), dtype=np.bool_)
    return Pieces(fill(none, np.ones_like(names), weights, ranks), names, weights)


def copy_counts(loads: Floats, slots: Wholes, useful: int) -> Wholes:
    """Return the copies [L, E] that fill the slots and can be assigned without two on one rank.

    The first ``useful`` spare slots go to hot experts, the others to the experts that weigh least:
    small pieces, with which a rank is filled up rather than with one more of a hot expert.
    """
    layers, experts = loads.shape
    allowed = slots.sum() - np.cumsum(np.sort(slots)[::-1])
    excess = np.zeros((layers, len(slots)), dtype=np.int64)
    counts = np.ones((layers, experts), dtype=np.int64)
    rows = np.arange(layers)
    for spare in range(int(slots.sum()) - experts):
        bound = 1 + (excess == allowed).argmax(axis=1)
        wanted = loads / counts if spare < useful else -loads / counts
        chosen = np.where(counts < bound[:, None], wanted, -np.inf).argmax(axis=1)
        excess += np.arange(1, len(slots) + 1) <= counts[rows, chosen][:, None]
        counts[rows, chosen] += 1
    return counts


def useful_copies(spare: int, trials: int = 8) -> tuple[int, ...]:
    """Return how many spare slots to give to hot experts, all of them first: what is tried."""
    shares = {spare * part // trials for part in range(trials + 1)} if spare else set()
    return tuple(sorted(shares, reverse=True))
