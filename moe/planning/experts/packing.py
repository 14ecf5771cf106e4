"""Assign experts to ranks with a fixed number of slots, so that the slowest rank is fast.

    time of a rank = sum of the loads of its experts / its speed      [layers L, ranks R, experts E]

Two steps, for all layers at once. ``fill`` assigns the experts one by one, the heaviest first, each
to the rank with a free slot that would finish it first. ``even_out`` then swaps one expert of the
slowest rank with one expert of another rank. Of all pairs it takes the one after which the slower
of these two ranks is fastest, and it stops when no swap helps.

    loads of experts 0-5: 3 3 2 2 2 0, two equal ranks of three slots
    fill        rank 0 holds 0 2 4: 3 + 2 + 2 = 7      rank 1 holds 1 3 5: 3 + 2 + 0 = 5
    even_out    swaps expert 0 with expert 3: then both ranks take 6

A swap must lower the slowest time, so ``even_out`` never makes a layer slower. With equal ranks the
result is within 2 - 1/R of the optimum (in practice within a few hundredths).

A rank never holds an expert twice. If the last copies of an expert find free slots only on ranks
that hold it already, a chain of moves frees a slot elsewhere: an augmenting path in the flow
network from experts to slots.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Wholes = NDArray[np.int64]
Held = NDArray[np.bool_]

ROUNDING = 1e-12
"""Times this near to each other, relatively, may be the same sum in another order."""

_EMPTY = -1


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """The ranks of a gang: expert slots [R] and relative speeds [R]."""

    slots: Wholes
    speeds: Floats

    def times(self, held: Held, loads: Floats) -> Floats:
        """Return the time of every rank [L, R], in load per unit of speed."""
        sums: Floats = (held @ loads[:, :, None])[:, :, 0]
        return sums / self.speeds

    def perfect(self, loads: Floats) -> Floats:
        """Return the time [L] of a perfect spread of the load; no layout of experts is faster."""
        mean: Floats = loads.sum(axis=1) / self.speeds.sum()
        return mean


def entries(held: Held) -> tuple[Wholes, Wholes, Wholes]:
    """Return layer, rank and expert of each True in ``held``.

    The same as ``np.nonzero(held)``, several times as fast.
    """
    layer, rank, expert = np.unravel_index(np.flatnonzero(held), held.shape)
    return layer, rank, expert


def fill(held: Held, missing: Wholes, loads: Floats, ranks: Ranks) -> Held:
    """Return ``held`` [L, R, E] with missing copies of experts added, as many as ``missing`` says.

    ``missing`` [L, E] counts copies; ``loads`` [L, E] is the load of one copy.
    """
    held = held.copy()
    rows = np.arange(len(held))
    room = ranks.slots - held.sum(axis=2)
    times = np.where(room > 0, ranks.times(held, loads), np.inf)
    delay = 1 / ranks.speeds - 1 / ranks.speeds.max()
    copied = (held.sum(axis=1) + missing > 1).any()
    for experts in _heaviest_first(missing, loads):
        load = loads[rows, experts]
        finish = times + load[:, None] * delay
        if copied:
            finish[held[rows, :, experts]] = np.inf
        chosen = finish.argmin(axis=1)
        fits, due = np.isfinite(finish[rows, chosen]), experts != _EMPTY
        row, rank = rows[fits & due], chosen[fits & due]
        held[row, rank, experts[row]] = True
        room[row, rank] -= 1
        times[row, rank] += load[row] / ranks.speeds[rank]
        times[room == 0] = np.inf
        for stuck in rows[~fits & due]:
            _make_room(held[stuck], room[stuck], int(experts[stuck]))
            anew = ranks.times(held[stuck, None], loads[stuck, None])[0]
            times[stuck] = np.where(room[stuck] > 0, anew, np.inf)
    return held


def even_out(held: Held, loads: Floats, ranks: Ranks, target: Floats) -> Held:
    """Return ``held`` after swaps that lower the time of the slowest rank of each layer.

    A layer is left alone once its slowest rank takes no longer than ``target`` [L].
    """
    held = held.copy()
    members = _members(held, int(ranks.slots.max()))
    layers = np.arange(len(held))
    while layers.size:
        slots = members[layers]
        shares = np.take_along_axis(loads[layers], slots.reshape(len(layers), -1), axis=1)
        shares = np.where(slots == _EMPTY, 0.0, shares.reshape(slots.shape))
        times: Floats = shares.sum(axis=2) / ranks.speeds
        busy = times.max(axis=1) > target[layers]
        layers = layers[busy]
        layers = _swap(layers, held, members, (shares[busy], times[busy]), ranks)
    return held


def _swap(
    layers: Wholes, held: Held, members: Wholes, now: tuple[Floats, Floats], ranks: Ranks
) -> Wholes:
    """Make the best swap of each layer in place; return the layers in which a swap helped.

    ``now`` holds the load in each slot [L, R, S] and the time of each rank [L, R].
    """
    shares, times = now
    rows = np.arange(len(layers))
    slowest = times.argmax(axis=1)
    worst = times[rows, slowest]
    give, take = _offers(layers, slowest, held, members, shares)
    less = give[:, :, :, None] - take[:, :, None, :]
    after = np.maximum(
        worst[:, None, None, None] - less / ranks.speeds[slowest][:, None, None, None],
        times[:, :, None, None] + less / ranks.speeds[:, None, None],
    ).reshape(len(layers), less[0].size if len(layers) else 1)
    best = after.argmin(axis=1)
    helps = after[rows, best] < worst * (1 - ROUNDING)
    layer: Wholes = layers[helps]
    giver = slowest[helps]
    taker, out, back = np.unravel_index(best[helps], less.shape[1:])
    leaving, coming = members[layer, giver, out], members[layer, taker, back]
    members[layer, giver, out], members[layer, taker, back] = coming, leaving
    held[layer, giver, leaving] = held[layer, taker, coming] = False
    held[layer, giver, coming] = held[layer, taker, leaving] = True
    return layer


def _offers(
    layers: Wholes, slowest: Wholes, held: Held, members: Wholes, shares: Floats
) -> tuple[Floats, Floats]:
    """Return the loads that the slowest rank can give to, and take from, each rank [L, R, S].

    An entry is infinite, so that no swap with it helps, if the slot is empty or if the rank that
    would receive the expert holds it already.
    """
    slots = members[layers]
    flat = slots.reshape(len(layers), slots.shape[1] * slots.shape[2])
    has = held[layers[:, None], slowest[:, None], flat].reshape(slots.shape)
    take = np.where(has | (slots == _EMPTY), np.inf, shares)
    rows = np.arange(len(layers))
    given = slots[rows, slowest]
    there = np.moveaxis(held[layers[:, None], :, given], 1, 2) | (given == _EMPTY)[:, None]
    give = np.where(there, -np.inf, shares[rows, slowest][:, None])
    return give, take


def _make_room(held: Held, room: Wholes, expert: int) -> None:
    """Give a rank one more expert of a layer in which only ranks that hold it have free slots.

    The expert goes to a full rank, which passes another expert on, until a rank has a free slot.
    The chain is searched breadth first; ``came[rank]`` is the expert that would come to a rank, and
    the rank that would send it. If all copies fit at all, some chain ends at a free slot.
    """
    came = {int(rank): (_EMPTY, expert) for rank in np.flatnonzero(~held[:, expert])}
    waiting = deque(came)
    while not room[rank := waiting.popleft()]:
        movable = held[rank] & ~held
        for other in map(int, np.flatnonzero(movable.any(axis=1))):
            if other not in came:
                came[other] = (rank, int(movable[other].argmax()))
                waiting.append(other)
    room[rank] -= 1
    while rank != _EMPTY:
        source, moved = came[rank]
        held[rank, moved] = True
        if source != _EMPTY:
            held[source, moved] = False
        rank = source


def _heaviest_first(missing: Wholes, loads: Floats) -> Wholes:
    """Return the experts in the order in which copies are assigned [copies, L], heaviest first.

    Layers with fewer copies than others are filled up with _EMPTY.
    """
    order = np.argsort(-loads, axis=1, kind="stable")
    counts = np.take_along_axis(missing, order, axis=1)
    copies = counts.sum(axis=1)
    queue = np.full((len(loads), int(copies.max(initial=0))), _EMPTY)
    queue[np.arange(queue.shape[1]) < copies[:, None]] = np.repeat(order.ravel(), counts.ravel())
    return queue.T


def _members(held: Held, width: int) -> Wholes:
    """Return the experts of each rank [L, R, width], ascending, filled up with _EMPTY."""
    members = np.full((*held.shape[:2], width), _EMPTY)
    members[np.arange(width) < held.sum(axis=2)[:, :, None]] = entries(held)[2]
    return members
