"""Why a plan finds no place: which rank, what it asks, what the cluster lacks, what to change."""

from collections.abc import Sequence
from typing import NamedTuple

from actors.crew.nodes.bundles import Gang, bundle, takes, total
from actors.crew.nodes.problem import counted, fits
from actors.crew.nodes.room import Amounts, Room
from actors.crew.nodes.search import Found
from actors.crew.nodes.words import amount_text, asked_text, found_text, labels_text
from moe.planning.plan.plan import RankPlan

_PLAN = "make the plan for this cluster with `raymoe plan --ray`"
_SOME = 6
"""Values of a label that an error lists."""


class Shortage(NamedTuple):
    """What is wrong, and what would mend it on an idle cluster."""

    fault: str
    remedy: str


def impossible(asked: Sequence[Gang], rooms: Sequence[Room], found: Found) -> str:
    """Say why even the idle cluster holds no such plan; ``found`` is the search on it."""
    return "; ".join(_shortage(asked, rooms, found, idle=True))


def busy(asked: Sequence[Gang], rooms: Sequence[Room], found: Found) -> str:
    """Say what is not free now on a cluster that is large enough."""
    fault = _shortage(asked, rooms, found, idle=False).fault
    return (
        f"{fault}; the cluster would hold the plan if it were idle: wait until other work has "
        "ended, or end a run with `raymoe stop NAME`"
    )


def rank_text(gang: Gang, member: int) -> str:
    """Return a rank's name in an error: its number in the run, its replica and stage."""
    return f"rank {gang.numbers[member]} (replica {gang.replica}, stage {gang.stage})"


def _shortage(asked: Sequence[Gang], rooms: Sequence[Room], found: Found, idle: bool) -> Shortage:
    for gang in asked:
        for member, rank in enumerate(gang.ranks):
            lack = _labels_lack(gang, member, rank, rooms) or _rank_lack(gang, member, rooms, idle)
            if lack:
                return lack
    for gang in asked:
        lack = _gang_lack(gang, rooms, idle)
        if lack:
            return lack
    return _sum_lack(asked, rooms, found, idle) or _packing_lack(asked, rooms, found, idle)


def _labels_lack(gang: Gang, member: int, rank: RankPlan, rooms: Sequence[Room]) -> Shortage | None:
    if any(takes(rank, room.labels) for room in rooms):
        return None
    there = []
    for key, _ in rank.labels:
        values = sorted({room.labels[key] for room in rooms if key in room.labels})
        more = ", ..." if len(values) > _SOME else ""
        listed = ", ".join(values[:_SOME]) + more
        there.append(f"{key} is {listed}" if values else f"no node has a label {key}")
    return Shortage(
        f"{rank_text(gang, member)} asks for a node with {labels_text(rank.labels)}, but of "
        f"{len(rooms)} nodes none is so: {'; '.join(there)}",
        "start a node with such labels, or change the labels of the rank in the plan",
    )


def _rank_lack(gang: Gang, member: int, rooms: Sequence[Room], idle: bool) -> Shortage | None:
    rank = gang.ranks[member]
    need = bundle(rank)
    own = [room for room in rooms if takes(rank, room.labels)]
    if any(_fits(need, _amounts(room, idle)) for room in own):
        return None
    labelled = f" with {labels_text(rank.labels)}" if rank.labels else ""
    return Shortage(
        f"{rank_text(gang, member)} asks for {asked_text(need)} on one node{labelled}, but "
        f"{_nearest_text(need, own, idle)}",
        f"{_PLAN}, or add such a node",
    )


def _gang_lack(gang: Gang, rooms: Sequence[Room], idle: bool) -> Shortage | None:
    own = [room for room in rooms if gang.takes(room.labels)]
    if any(_fits(gang.need, _amounts(room, idle)) for room in own):
        return None
    remedy = "lower plan.gang, change what its ranks ask for, or add such a node"
    if not own:
        labels = tuple(dict.fromkeys(pair for rank in gang.ranks for pair in rank.labels))
        return Shortage(
            f"{gang} is to be on one node, but no node has all that its ranks select: "
            f"{labels_text(labels)}",
            remedy,
        )
    member = next(
        member
        for member in range(len(gang.ranks))
        if not any(_fits(total(gang.bundles[: member + 1]), _amounts(room, idle)) for room in own)
    )
    return Shortage(
        f"{rank_text(gang, member)} asks for {asked_text(gang.bundles[member])} on the node of its "
        f"gang, which asks for {asked_text(gang.need)} together, but "
        f"{_nearest_text(gang.need, own, idle)}",
        remedy,
    )


def _sum_lack(
    asked: Sequence[Gang], rooms: Sequence[Room], found: Found, idle: bool
) -> Shortage | None:
    stuck = _stuck(asked, found)
    ranks = sum(len(gang.ranks) for gang in asked)
    for name, amount in total(tuple(gang.need for gang in asked)).items():
        there = sum(_amounts(room, idle).get(name, 0.0) for room in rooms)
        if not _fits({name: amount}, {name: there}):
            has = f"{amount_text(name, there)}{'' if idle else ' free'}"
            return Shortage(
                f"the plan needs {amount_text(name, amount)} for its {ranks} ranks but the cluster "
                f"has {has}, so {stuck} finds no place",
                "use fewer stages, fewer replicas or a smaller gang, or add nodes",
            )
    return None


def _packing_lack(
    asked: Sequence[Gang], rooms: Sequence[Room], found: Found, idle: bool
) -> Shortage:
    stuck = _stuck(asked, found)
    left = [
        Room(room.id, room.names, amounts, amounts)
        for number, room in enumerate(rooms)
        if stuck.takes(room.labels)
        for amounts in [_left(number, asked, _amounts(room, idle), found)]
    ]
    tried = "however they are placed" if found.proved else "as far as ways to place them were tried"
    return Shortage(
        f"{stuck} asks for {asked_text(stuck.need)} on one node, but beside the other gangs "
        f"{_nearest_text(stuck.need, left, idle=True)} left, {tried}",
        f"{_PLAN}, or add a node",
    )


def _left(number: int, asked: Sequence[Gang], amounts: Amounts, found: Found) -> Amounts:
    taken = total(tuple(asked[item].need for item, node in found.filled.items() if node == number))
    return {name: amount - taken.get(name, 0.0) for name, amount in amounts.items()}


def _stuck(asked: Sequence[Gang], found: Found) -> Gang:
    """Return the first gang that the longest way did not place."""
    return next(gang for item, gang in enumerate(asked) if item not in found.filled)


def _nearest_text(need: Amounts, rooms: Sequence[Room], idle: bool) -> str:
    """Return what the node lacks that comes nearest to a need."""

    def lack(room: Room) -> float:
        has = _amounts(room, idle)
        return sum(max(0.0, 1 - has.get(name, 0.0) / amount) for name, amount in need.items())

    could = [room for room in rooms if _fits(need, room.total)]
    room = min(could or rooms, key=lack)
    has = _amounts(room, idle)
    lacking = [name for name, amount in need.items() if not _fits({name: amount}, has)]
    return f"the node nearest to it, {room.name}, has {found_text(room, lacking, idle)}"


def _amounts(room: Room, idle: bool) -> Amounts:
    return room.total if idle else room.free


def _fits(need: Amounts, has: Amounts) -> bool:
    names = list(need)
    return fits(counted(need, names), counted(has, names))
