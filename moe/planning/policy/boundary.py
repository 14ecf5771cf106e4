"""The step boundary that a whole run can stand at, and who gives what the lost ranks held.

A boundary is whole if every survivor can stand at it, with its live state or its own copy, and some
survivor holds a whole copy of every lost rank as of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from moe.planning.plan.seats import Seat
from moe.planning.policy.situation import Shape, Situation, Standing


@dataclass(frozen=True, slots=True)
class Boundary:
    """Steps done at a boundary, and for each lost seat the survivor that holds its copy."""

    step: int
    gives: Mapping[Seat, Seat]


def newest_boundary(living: Mapping[Seat, Standing], lost: tuple[Seat, ...]) -> Boundary | None:
    """Return the newest boundary that survivors and copies of the lost share; None without one."""
    if not living:
        return None
    held = _held(living, lost)
    sets = [each.boundaries for each in living.values()]
    sets += [frozenset(held[seat]) for seat in lost]
    common = reduce(frozenset.intersection, sets)
    if not common:
        return None
    step = max(common)
    return Boundary(step, {seat: held[seat][step] for seat in lost})


def why_none(situation: Situation[Shape]) -> str:
    """Return in words why there is no boundary to heal from."""
    lost = situation.lost
    if not situation.living:
        return "no rank is left"
    if lost and not situation.holders:
        return f"{lost[0]} is lost and the run keeps no copies"
    held = _held(situation.living, lost)
    for seat in lost:
        if held[seat]:
            continue
        holder = situation.holders.get(seat)
        if holder in lost:
            return f"{seat} and {holder}, which held its only copy, are both lost"
        return f"{seat} is lost before a copy of it was whole"
    return "the ranks have no step boundary in common"


def _held(
    living: Mapping[Seat, Standing], lost: tuple[Seat, ...]
) -> Mapping[Seat, Mapping[int, Seat]]:
    """Return who holds the copies of each lost seat, by their steps."""
    wanted = set(lost)
    held: dict[Seat, dict[int, Seat]] = {seat: {} for seat in lost}
    for holder, standing in living.items():
        for seat in standing.holds.keys() & wanted:
            held[seat].update((step, holder) for step in standing.holds[seat])
    return held
