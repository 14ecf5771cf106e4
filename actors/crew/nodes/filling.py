"""Where some ranks of a plan go while the others stay where they are. No Ray here.

The members of a gang share a node: a rank goes to the node of those of its gang that stay. A gang
of which nobody stays goes wherever there is room, by the rules of ``actors.crew.nodes.choice``,
which count the gangs that stay.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from actors.crew.nodes.bundles import Gang, bundle, gangs
from actors.crew.nodes.choice import problem
from actors.crew.nodes.problem import Item, Problem, counted, fits
from actors.crew.nodes.room import Amounts, Room
from actors.crew.nodes.search import Found, search
from actors.crew.nodes.shortage import busy, impossible
from actors.crew.nodes.words import asked_text, found_text
from moe.errors import ClusterBusy, LaunchError
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

Homes = Mapping[tuple[int, int], str]
"""The node of each gang that stays, by replica and stage."""


def fill(
    plan: Plan, seats: Collection[Seat], staying: Mapping[Seat, str], rooms: Sequence[Room]
) -> dict[Seat, str]:
    """Return the node of each of ``seats``; ``staying`` are the nodes of the ranks that stay.

    LaunchError names what the cluster could not hold beside this run, ClusterBusy what others use.
    """
    homes = _homes(staying)
    asked = gangs(plan, seats)
    left = _without_staying(plan, staying, rooms)
    for gang in asked:
        if gang.place in homes:
            left = _beside_its_own(gang, homes[gang.place], left)
    free = [gang for gang in asked if gang.place not in homes]
    nodes = {**homes, **_chosen(free, homes, left)}
    return {seat: nodes[seat.replica, seat.stage] for seat in plan.seats if seat in seats}


def finds_places(plan: Plan, staying: Mapping[Seat, str], rooms: Sequence[Room]) -> bool:
    """Tell whether all seats of a plan but those ``staying`` on a node find places now."""
    others = [seat for seat in plan.seats if seat not in staying]
    try:
        fill(plan, others, staying, rooms)
    except (LaunchError, ClusterBusy):
        return False
    return True


def _homes(staying: Mapping[Seat, str]) -> Homes:
    """Return the node of each gang; those of a gang that stay must be on one."""
    homes: dict[tuple[int, int], str] = {}
    for seat, node in staying.items():
        if homes.setdefault((seat.replica, seat.stage), node) != node:
            raise LaunchError(
                f"replica {seat.replica}, stage {seat.stage} would keep ranks of two nodes, but a "
                "gang is on one: keep those of one node, and start the others anew"
            )
    return homes


def _without_staying(
    plan: Plan, staying: Mapping[Seat, str], rooms: Sequence[Room]
) -> Sequence[Room]:
    """Return what nodes have beside the ranks that stay; what is free lacks them already."""
    for seat, node in staying.items():
        rooms = [_less(room, bundle(plan.rank(seat)), {}, node) for room in rooms]
    return rooms


def _beside_its_own(gang: Gang, node: str, rooms: Sequence[Room]) -> Sequence[Room]:
    """Return what is left where members of a gang go to the node of the others."""
    asked = f"{gang} asks for {asked_text(gang.need)} on the node of its gang"
    room = next((room for room in rooms if room.id == node), None)
    if room is None:
        raise ClusterBusy(f"{asked}, which leaves the cluster; start the whole gang anew")
    names = list(gang.need)
    need = counted(gang.need, names)
    if not fits(need, counted(room.free, names)):
        found = f"{asked}, but {room.name} has {found_text(room, names, idle=False)}"
        if fits(need, counted(room.total, names)):
            raise ClusterBusy(f"{found}; wait until other work has ended")
        raise LaunchError(f"{found}; start the whole gang anew, where there is more room")
    return [_less(each, gang.need, gang.need, node) for each in rooms]


def _chosen(free: Sequence[Gang], homes: Homes, rooms: Sequence[Room]) -> Homes:
    """Return the nodes of gangs of which nobody stays."""
    if not free:
        return {}
    if not rooms:
        raise LaunchError("the cluster has no living node; start one, or wait for one to join")
    there = [*rooms, *_leaving(homes, rooms)]
    found = _search(free, homes, there, idle=False)
    if found.nodes is not None:
        return {
            gang.place: there[number].id for gang, number in zip(free, found.nodes, strict=False)
        }
    idle = _search(free, homes, there, idle=True)
    if idle.nodes is not None:
        raise ClusterBusy(busy(free, rooms, _of_free(found, free)))
    raise LaunchError(impossible(free, rooms, _of_free(idle, free)))


def _leaving(homes: Homes, rooms: Sequence[Room]) -> list[Room]:
    """Return nodes that have gangs of the run and take no more."""
    there = {room.id for room in rooms}
    return [Room(node, (node,), {}, {}) for node in sorted({*homes.values()} - there)]


def _search(free: Sequence[Gang], homes: Homes, rooms: Sequence[Room], idle: bool) -> Found:
    """Search for the free gangs; those that stay have one node each and ask for nothing more."""
    open_ = problem(free, rooms, idle)
    numbers = {room.id: number for number, room in enumerate(rooms)}
    nothing = (0,) * len(open_.room[0])
    staying = [
        Item(*place, nothing, (numbers[node],), frozenset()) for place, node in homes.items()
    ]
    return search(Problem((*open_.items, *staying), open_.room))


def _of_free(found: Found, free: Sequence[Gang]) -> Found:
    """Return what was found without the gangs that stay, which come last."""
    placed = {item: node for item, node in found.filled.items() if item < len(free)}
    return replace(found, filled=placed)


def _less(room: Room, total_: Amounts, free: Amounts, node: str) -> Room:
    """Return a room that has less, if it is the node."""
    if room.id != node:
        return room
    return replace(room, total=_minus(room.total, total_), free=_minus(room.free, free))


def _minus(amounts: Amounts, taken: Amounts) -> Amounts:
    return {name: amount - taken.get(name, 0.0) for name, amount in amounts.items()}
