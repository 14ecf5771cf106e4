"""Placement groups: the bundles of each gang, held on the node that was decided for it.

Every gang has a group of its own, because placement groups cannot grow.
"""

import time
from math import ceil

from ray.util import placement_group_table
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    remove_placement_group,
)

from actors.crew.nodes.bundles import Gang, gangs
from actors.crew.nodes.choice import NodeChoice
from actors.crew.nodes.nodes import rooms
from actors.crew.nodes.words import asked_text, found_text
from moe.errors import ClusterBusy
from moe.planning.plan.plan import Plan

GRANT_SECONDS, GRANT_SECONDS_EACH = 3.0, 0.05
"""Ray grants groups that fit in milliseconds each; those that wait longer were forestalled."""

_NODE_ID = "ray.io/node-id"


def reserve(
    run: str, plan: Plan, choice: NodeChoice, detached: bool
) -> dict[tuple[int, int], PlacementGroup]:
    """Reserve every gang's bundles on its node; return the groups by replica and stage.

    Raise ClusterBusy where one is not granted; what was granted is then for ``release`` to undo.
    """
    asked = gangs(plan)
    groups = [_ask(run, gang, choice.nodes[gang.replica][gang.stage], detached) for gang in asked]
    # Ray waits whole seconds: 0.9 would be none.
    deadline = time.monotonic() + GRANT_SECONDS + GRANT_SECONDS_EACH * len(groups)
    for gang, group in zip(asked, groups, strict=True):
        if not group.wait(max(ceil(deadline - time.monotonic()), 1)):
            raise ClusterBusy(_forestalled(gang, choice.nodes[gang.replica][gang.stage]))
    return {(gang.replica, gang.stage): group for gang, group in zip(asked, groups, strict=True)}


def release(run: str) -> None:
    """Ask Ray to remove every placement group of a run."""
    for name in groups_of(run):
        try:
            remove_placement_group(get_placement_group(name))
        except ValueError:
            continue


def groups_of(run: str) -> list[str]:
    """Return the names of the placement groups of a run."""
    return [
        group["name"]
        for group in placement_group_table().values()
        if group["name"].startswith(f"{run}/replica-") and group["state"] != "REMOVED"
    ]


def _ask(run: str, gang: Gang, node: str, detached: bool) -> PlacementGroup:
    group: PlacementGroup = placement_group(
        list(gang.bundles),
        strategy="STRICT_PACK",
        name=f"{run}/replica-{gang.replica}/stage-{gang.stage}",
        lifetime="detached" if detached else None,
        bundle_label_selector=[{_NODE_ID: node} for _ in gang.bundles],
    )
    return group


def _forestalled(gang: Gang, node: str) -> str:
    asked = f"{gang} asks for {asked_text(gang.need)} on one node"
    for room in rooms():
        if room.id == node:
            return (
                f"{asked} and was to have them on {room.name}, but others took some first: it has "
                f"{found_text(room, gang.need, idle=False)}; try again, or wait until other work "
                "has ended"
            )
    return f"{asked}, but the node that was to have it has left the cluster; try again"
