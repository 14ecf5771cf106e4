"""Placement groups: one for each rank, held on the node that was decided for its gang.

Placement groups cannot grow or shrink, so each rank has one of its own: it can be replaced, added
and removed alone. An actor that is started in a group has the name of the group. An actor that dies
leaves its group as it was, and the next actor takes its place there.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from ray.util import list_named_actors, placement_group_table
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    remove_placement_group,
)

from actors.crew.nodes.bundles import bundle
from actors.crew.nodes.nodes import rooms
from actors.crew.nodes.room import Amounts
from actors.crew.nodes.words import asked_text, found_text
from moe.errors import ClusterBusy
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

GRANT_SECONDS, GRANT_SECONDS_EACH = 3.0, 0.05
"""Ray grants groups that fit in milliseconds each; those that wait longer were forestalled."""

_NODE_ID = "ray.io/node-id"


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one rank holds of one node: ``amounts`` of resources; ``node`` is Ray's id of the node.

    ``devices`` are the GPUs in it, as ``CUDA_VISIBLE_DEVICES`` has them; Ray tells them to the
    first actor in it, so they are None before.
    """

    name: str
    node: str
    group: PlacementGroup
    amounts: Amounts
    devices: str | None = None

    def holds(self, need: Amounts) -> bool:
        """Tell whether a rank that needs so much can be started in it."""
        return all(self.amounts.get(name, 0.0) >= amount for name, amount in need.items())

    def give_back(self) -> None:
        """Ask Ray to remove the placement group."""
        remove_placement_group(self.group)


def rank_name(run: str, number: int) -> str:
    """Return a name of a reservation of a run, or of an actor."""
    return f"{run}/rank-{number}"


def run_of(name: str) -> str:
    """Return the run of a name that ``rank_name`` has made."""
    return name.rpartition("/rank-")[0]


def number_of(name: str) -> int:
    """Return the number in a name that ``rank_name`` has made."""
    return int(name.rpartition("-")[2])


def reserve(
    run: str, plan: Plan, nodes: Mapping[Seat, str], detached: bool
) -> dict[Seat, Reservation]:
    """Reserve what the ranks of some seats ask for, each on its node.

    The numbers of their names follow those that the run has. Raise ClusterBusy, and hold none of
    them, where one is not granted.
    """
    first, made = unused(run), dict[Seat, Reservation]()
    try:
        for number, (seat, node) in enumerate(nodes.items(), first):
            name, amounts = rank_name(run, number), bundle(plan.rank(seat))
            made[seat] = Reservation(name, node, _ask(name, amounts, node, detached), amounts)
        _await_grants(plan, made)
    except BaseException:
        for reservation in made.values():
            reservation.give_back()
        raise
    return made


def reservations_of(run: str) -> dict[str, Reservation]:
    """Return the reservations of a run by name."""
    found = {}
    for name, row in _rows(run).items():
        try:
            group = get_placement_group(name)
        except ValueError:
            continue  # it was removed a moment ago
        node, amounts = row["bundles_to_node_id"].get(0, ""), row["bundles"].get(0, {})
        found[name] = Reservation(name, str(node), group, amounts)
    return found


def nodes_of_runs(prefix: str) -> dict[str, set[str]]:
    """Return by name the nodes that the runs have whose names begin so."""
    found: dict[str, set[str]] = {}
    for row in _table():
        run = run_of(row["name"])
        if run.startswith(prefix):
            found.setdefault(run, set()).add(str(row["bundles_to_node_id"].get(0, "")))
    return found


def groups_of(run: str) -> list[str]:
    """Return the names of the placement groups of a run."""
    return sorted(_rows(run))


def actors_of(run: str) -> list[str]:
    """Return the names of the living actors of a run."""
    prefix = rank_name(run, 0)[:-1]
    return [name for name in list_named_actors() if name.startswith(prefix)]


def _rows(run: str) -> dict[str, dict[str, Any]]:
    """Return what Ray's table says of each placement group of a run."""
    prefix = rank_name(run, 0)[:-1]
    return {row["name"]: row for row in _table() if row["name"].startswith(prefix)}


def _table() -> list[dict[str, Any]]:
    """Return what Ray's table says of each placement group of the cluster."""
    table: Mapping[str, dict[str, Any]] = placement_group_table()
    return [row for row in table.values() if row["state"] != "REMOVED"]


def unused(run: str) -> int:
    """Return the first number after those of the run's reservations and actors."""
    numbers = [name.rpartition("-")[2] for name in (*groups_of(run), *actors_of(run))]
    return max((int(number) for number in numbers if number.isdigit()), default=-1) + 1


def _ask(name: str, amounts: Mapping[str, float], node: str, detached: bool) -> PlacementGroup:
    group: PlacementGroup = placement_group(
        [dict(amounts)],
        name=name,
        lifetime="detached" if detached else None,
        bundle_label_selector=[{_NODE_ID: node}],
    )
    return group


def _await_grants(plan: Plan, made: Mapping[Seat, Reservation]) -> None:
    # Ray waits whole seconds: 0.9 would be none.
    deadline = time.monotonic() + GRANT_SECONDS + GRANT_SECONDS_EACH * len(made)
    for seat, reservation in made.items():
        if not reservation.group.wait(max(ceil(deadline - time.monotonic()), 1)):
            raise ClusterBusy(_forestalled(plan, seat, reservation.node))


def _forestalled(plan: Plan, seat: Seat, node: str) -> str:
    need = bundle(plan.rank(seat))
    asked = (
        f"rank {plan.seats.rank(seat)} (replica {seat.replica}, stage {seat.stage}) asks for "
        f"{asked_text(need)} on the node of its gang"
    )
    for room in rooms():
        if room.id == node:
            return (
                f"{asked} and was to have them on {room.name}, but others took some first: it has "
                f"{found_text(room, need, idle=False)}; try again, or wait until other work "
                "has ended"
            )
    return f"{asked}, but the node that was to have it has left the cluster; try again"
