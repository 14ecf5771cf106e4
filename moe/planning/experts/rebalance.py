"""Makes layouts of experts from a measured load, so that the slowest rank of each layer is fast.

    arrange     one rank holds each expert               training, and serving without spare slots
    replicate   spare slots hold copies of hot experts   serving
    improve     changes a layout in use: only layers that gain enough, and few experts move

No layer ends slower than under the plain greedy rule: give copies to the expert with the highest
load per copy, then assign the heaviest copy first to the least loaded rank with a free slot. That
rule may put two copies of an expert on one rank, which wastes a slot; such a layer is kept only if
no layout found here without repeats is as fast.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from moe.errors import PlanError
from moe.planning.experts.expert_layout import ExpertLayout
from moe.planning.experts.load import checked_load, checked_speeds
from moe.planning.experts.packing import (
    ROUNDING,
    Floats,
    Held,
    Ranks,
    Wholes,
    entries,
    even_out,
    fill,
)
from moe.planning.experts.replication import copy_counts, plain, useful_copies
from moe.planning.stages.split import spans

NEAR = 0.003
"""A layer this near to a perfect spread is left alone: load differs more from step to step."""

FEW, STARTS = 64, 8
"""With so few experts swaps may end far from the best, so they begin that many times more."""

KEEP = 0.02
"""An improved layer may be this much slower than one arranged anew: far fewer experts move."""


def arrange(
    load: ArrayLike,
    slots: Sequence[int],
    speeds: Sequence[float] | None = None,
    layers: Sequence[int] | None = None,
) -> ExpertLayout:
    """Return a layout in which one rank holds each expert, for loads [layers, experts].

    A rank holds as many experts of each layer as it has ``slots``.
    """
    loads = checked_load(load)
    ranks = _ranks(slots, speeds, loads.shape[1])
    total = int(ranks.slots.sum())
    if total > loads.shape[1]:
        raise PlanError(
            f"the ranks have {total} slots for {loads.shape[1]} experts; take slots away, or fill "
            "them with copies of hot experts by replicate"
        )
    return replicate(load, slots, speeds, layers)


def replicate(
    load: ArrayLike,
    slots: Sequence[int],
    speeds: Sequence[float] | None = None,
    layers: Sequence[int] | None = None,
) -> ExpertLayout:
    """Return a layout in which slots beyond the number of experts hold copies of hot experts."""
    loads = checked_load(load)
    ranks = _ranks(slots, speeds, loads.shape[1])
    return _layout(_replicate(loads, ranks), ranks, layers)


def improve(
    current: ExpertLayout,
    load: ArrayLike,
    threshold: float = 0.1,
    speeds: Sequence[float] | None = None,
) -> ExpertLayout:
    """Return a better layout for this load, or ``current`` itself if moving does not pay.

    A layer changes only where its slowest rank becomes faster by at least ``threshold``, a fraction
    of its time now. It changes by the few swaps that bring it near what arranging it anew reaches;
    if swaps do not lead there, it is arranged anew, with ranks renamed so that most experts stay.
    """
    if not 0 <= threshold < 1:
        raise PlanError(f"threshold is {threshold}; give a fraction, 0 or more and below 1")
    ranks = _ranks(current.slots, speeds, current.expert_count)
    now = (current.rank_loads(load) / ranks.speeds).max(axis=1)
    loads, copies = checked_load(load), current.copies()
    anew = _replicate(loads, ranks)
    possible, enough = _slowest(anew, loads, ranks), now * (1 - threshold)
    rows = np.flatnonzero((possible <= enough) & (possible < now))
    target = np.minimum(possible * (1 + KEEP), enough)[rows]
    nearby = _adapt(copies[rows] > 0, anew[rows], loads[rows], ranks, target)
    if np.array_equal(nearby, copies[rows]):
        return current
    copies[rows] = nearby
    return _layout(copies, ranks, current.layers)


class _Search:
    """The best copies [L, R, E] found so far, each expert once a rank, and their slowest times."""

    def __init__(self, loads: Floats, ranks: Ranks, limit: Floats) -> None:
        self.loads, self.ranks = loads, ranks
        self.near = ranks.perfect(loads) * (1 + NEAR)
        self.target = np.minimum(self.near, limit)
        self.held = np.zeros((len(loads), len(ranks.slots), loads.shape[1]), dtype=np.bool_)
        self.slowest = np.full(len(loads), np.inf)

    def unsettled(self) -> Wholes:
        """Return the layers for which another number of copies should be tried."""
        return np.flatnonzero(self.slowest > self.near)

    def offer(self, rows: Wholes, held: Held) -> None:
        """Even out candidates of some layers and keep those that are better."""
        if not rows.size:
            return
        shares = self.loads[rows] / held.sum(axis=1)
        held = even_out(held, shares, self.ranks, self.target[rows])
        slowest = self.ranks.times(held, shares).max(axis=1)
        better = slowest < self.slowest[rows]
        self.held[rows[better]] = held[better]
        self.slowest[rows[better]] = slowest[better]


def _replicate(loads: Floats, ranks: Ranks) -> Wholes:
    """Return the copies [L, R, E]; layers that the plain rule fills without repeats start there."""
    pieces = plain(loads, ranks)
    copies = pieces.copies(loads.shape[1])
    limit = _slowest(copies, loads, ranks) * (1 + ROUNDING)
    spare = int(ranks.slots.sum()) - loads.shape[1]
    search = _Search(loads, ranks, limit)
    single = np.flatnonzero((copies <= 1).all(axis=(1, 2)))
    search.offer(single, copies[single] > 0)
    for useful in useful_copies(spare):
        rows = search.unsettled()
        if not rows.size:
            break
        counts = copy_counts(loads[rows], ranks.slots, useful)
        none = np.zeros_like(search.held[rows])
        search.offer(rows, fill(none, counts, loads[rows] / counts, ranks))
    if loads.shape[1] <= FEW:
        _start_again(search)
    found = search.held.astype(np.int64)
    worse = np.flatnonzero(search.slowest > limit)
    if worse.size:
        evened = pieces.evened(worse, ranks, search.target[worse])
        found[worse] = evened.copies(loads.shape[1])
    return found


def _start_again(search: _Search) -> None:
    """Try other beginnings, as if the experts had other loads: swaps end elsewhere from there."""
    random = np.random.default_rng(0)
    for _ in range(STARTS):
        rows = search.unsettled()
        if not rows.size:
            return
        counts = search.held[rows].sum(axis=1)
        none = np.zeros_like(search.held[rows])
        search.offer(rows, fill(none, counts, random.random(counts.shape), search.ranks))


def _adapt(held: Held, anew: Wholes, loads: Floats, ranks: Ranks, target: Floats) -> Wholes:
    """Return copies that reach the target from what is held, or else those arranged anew."""
    adapted = anew.copy()
    rows = np.flatnonzero((anew <= 1).all(axis=(1, 2)))
    counts = anew[rows].sum(axis=1)
    shares = loads[rows] / counts
    kept = _refit(held[rows], counts, loads[rows], ranks)
    kept = even_out(kept, shares, ranks, target[rows])
    near = ranks.times(kept, shares).max(axis=1) <= target[rows] * (1 + ROUNDING)
    adapted[rows[near]] = kept[near]
    for row in set(range(len(held))) - set(rows[near].tolist()):
        adapted[row] = anew[row, _renamed(held[row], anew[row] > 0, ranks)]
    return adapted


def _refit(held: Held, counts: Wholes, loads: Floats, ranks: Ranks) -> Held:
    """Return what is held with other numbers of copies: too many leave the slowest ranks first."""
    held = held.copy()
    shares = loads / counts
    surplus = held.sum(axis=1) - counts
    for layer, expert in np.argwhere(surplus > 0):
        times = ranks.times(held[layer, None], shares[layer, None])[0]
        holders = np.flatnonzero(held[layer, :, expert])
        slowest = holders[np.argsort(-times[holders], kind="stable")]
        held[layer, slowest[: surplus[layer, expert]], expert] = False
    return fill(held, counts - held.sum(axis=1), shares, ranks)


def _renamed(held: Held, anew: Held, ranks: Ranks) -> Wholes:
    """Return which rank of a new layer each rank should be, so that most experts stay.

    Ranks of equal slots and speed may be exchanged; the pairs with most in common go first.
    """
    kinds = np.stack((ranks.slots, ranks.speeds), axis=1)
    alike = (kinds[:, None] == kinds).all(axis=2)
    common = np.where(alike, held.astype(np.int64) @ anew.T.astype(np.int64), -1)
    order = np.empty(len(ranks.slots), dtype=np.int64)
    for _ in order:
        rank, other = np.unravel_index(common.argmax(), common.shape)
        order[rank] = other
        common[rank], common[:, other] = -1, -1
    return order


def _slowest(copies: Wholes, loads: Floats, ranks: Ranks) -> Floats:
    """Return the time [L] of the slowest rank."""
    sums = np.einsum("lre,le->lr", copies, loads / copies.sum(axis=1))
    slowest: Floats = (sums / ranks.speeds).max(axis=1)
    return slowest


def _layout(copies: Wholes, ranks: Ranks, layers: Sequence[int] | None) -> ExpertLayout:
    held = entries(copies > 0)
    flat = np.repeat(held[2], copies[held]).reshape(len(copies), -1)
    cuts = spans(ranks.slots.tolist())
    return ExpertLayout(
        layers=tuple(range(len(copies)) if layers is None else layers),
        experts=tuple(tuple(tuple(row[a:b]) for a, b in cuts) for row in flat.tolist()),
    )


def _ranks(slots: Sequence[int], speeds: Sequence[float] | None, experts: int) -> Ranks:
    """Return the ranks; PlanError unless their slots hold all experts, and none more than all."""
    if not len(slots):
        raise PlanError("the gang has no rank; give the slots of at least one")
    for rank, count in enumerate(slots):
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise PlanError(f"rank {rank} has {count} slots; give it a whole number, 1 or more")
        if count > experts:
            raise PlanError(
                f"rank {rank} has {count} slots but there are {experts} experts, and it holds each "
                f"once; give no rank more than {experts} slots"
            )
    total = int(sum(slots))
    if total < experts:
        raise PlanError(f"the ranks have {total} slots for {experts} experts; add slots")
    return Ranks(np.asarray(slots, dtype=np.int64), checked_speeds(speeds, len(slots)))
