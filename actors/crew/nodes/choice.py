"""Where the gangs of a plan go, decided before anything is created. No Ray here.

All ranks of a gang are on one node, and together the gangs ask no more of a node than it has. Of
all such placements one is taken in which, first, the fewest gangs are away from the node that the
plan's devices name; second, the fewest pairs of replicas meet on a node, so that a lost node takes
few replicas with it; third, the fewest neighbouring stages are on different nodes
(``actors.crew.nodes.search``).
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from actors.crew.nodes.bundles import Gang, bundle, gangs, takes
from actors.crew.nodes.problem import Item, Problem, counted, fits
from actors.crew.nodes.room import Room
from actors.crew.nodes.search import Found, search
from actors.crew.nodes.shortage import busy, impossible
from moe.errors import ClusterBusy, LaunchError
from moe.planning.plan.plan import Plan, RankPlan


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """The node of every gang; ``nodes[replica][stage]`` is its id.

    ``moved`` gangs are not where the plan names a node, ``shared`` pairs of replicas meet on a
    node, ``apart`` pairs of neighbouring stages are on two. ``proved`` is false where a cluster was
    too large to try all others.
    """

    nodes: tuple[tuple[str, ...], ...]
    moved: int = 0
    shared: int = 0
    apart: int = 0
    proved: bool = True


def choose(plan: Plan, rooms: Sequence[Room], others: Iterable[Collection[str]] = ()) -> NodeChoice:
    """Return where the gangs of a plan go on what is free now.

    ``others`` are the nodes of each replica of other plans, from which these stay apart as from
    each other. LaunchError names what even the idle cluster cannot hold, ClusterBusy what is not
    free now.
    """
    asked = gangs(plan)
    if not rooms:
        raise LaunchError("the cluster has no living node; start one, or wait for one to join")
    now = problem(asked, rooms, idle=False)
    found = search(Problem((*now.items, *_beside(plan, rooms, others)), now.room))
    if found.nodes is not None:
        return _choice(plan, rooms, found)
    idle = search(problem(asked, rooms, idle=True))
    if idle.nodes is not None:
        raise ClusterBusy(busy(asked, rooms, found))
    raise LaunchError(impossible(asked, rooms, idle))


def has_room(rank: RankPlan, room: Room) -> bool:
    """Tell whether a rank may be on a node and finds there now what it asks for."""
    need = bundle(rank)
    names = list(need)
    return takes(rank, room.labels) and fits(counted(need, names), counted(room.free, names))


def problem(asked: Sequence[Gang], rooms: Sequence[Room], idle: bool) -> Problem:
    """Return gangs and nodes in numbers: what nodes have when idle, or what is free now."""
    needs = [gang.need for gang in asked]
    names = sorted({name for need in needs for name in need})
    there = tuple(counted(room.total if idle else room.free, names) for room in rooms)
    items = []
    for gang, need in zip(asked, needs, strict=True):
        numbers = counted(need, names)
        nodes = (n for n, room in enumerate(rooms) if gang.takes(room.labels))
        named = {*gang.nodes}
        items.append(
            Item(
                gang.replica,
                gang.stage,
                numbers,
                tuple(node for node in nodes if fits(numbers, there[node])),
                frozenset(n for n, room in enumerate(rooms) if named & {*room.names}),
            )
        )
    return Problem(tuple(items), there)


def _beside(plan: Plan, rooms: Sequence[Room], others: Iterable[Collection[str]]) -> Iterator[Item]:
    """Yield the gangs of other replicas, which are where they are and ask for nothing more."""
    nothing = counted({}, sorted({name for gang in gangs(plan) for name in gang.need}))
    for replica, nodes in enumerate(others, plan.replicas):
        there = [number for number, room in enumerate(rooms) if room.id in nodes]
        for stage, number in enumerate(there):
            yield Item(replica, stage, nothing, (number,), frozenset())


def _choice(plan: Plan, rooms: Sequence[Room], found: Found) -> NodeChoice:
    assert found.nodes is not None
    stages = len(plan.stages)
    ids = [rooms[number].id for number in found.nodes[: plan.replicas * stages]]
    rows = (tuple(ids[first : first + stages]) for first in range(0, len(ids), stages))
    return NodeChoice(tuple(rows), *found.cost, proved=found.proved)
