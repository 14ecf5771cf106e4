"""A plan of more replicas: those that are there change nothing, each new one is like the first."""

from collections import defaultdict
from dataclasses import replace

from moe.errors import PlanError
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.plan.plan import Plan, StagePlan


def more_replicas(plan: Plan, count: int, there: Inventory) -> Plan:
    """Return the plan with ``count`` replicas, the new ones on devices that the plan does not use.

    All ranks of a gang are on one node. PlanError where the devices that are left do not suffice.
    """
    used = {name for stage in plan.stages for rank in stage.ranks for name in rank.devices}
    free = defaultdict[str, list[Device]](list)
    for device in there.devices:
        if device.name not in used:
            free[device.node].append(device)
    grown = plan
    while grown.replicas < count:
        stages = tuple(_with_another(stage, free, count) for stage in grown.stages)
        grown = replace(grown, stages=stages)
    return grown


def _with_another(stage: StagePlan, free: dict[str, list[Device]], count: int) -> StagePlan:
    """Return a stage with a gang more, on the node that has the most devices left for it."""
    found: list[list[Device]] = []
    for devices in free.values():
        gang = _gang(stage, devices)
        if gang is not None:
            found.append(gang)
    if not found:
        raise PlanError(
            f"asked for {count} replicas, but no node has {len(stage.ranks)} free devices of the "
            "kinds of a gang; ask for fewer replicas, or add nodes"
        )
    chosen = max(found, key=lambda gang: len(free[gang[0].node]))
    for device in chosen:
        free[device.node].remove(device)
    pairs = zip(stage.ranks, chosen, strict=True)
    ranks = tuple(replace(rank, devices=(*rank.devices, each.name)) for rank, each in pairs)
    return replace(stage, ranks=ranks)


def _gang(stage: StagePlan, devices: list[Device]) -> list[Device] | None:
    """Return a device of a node for each rank of a gang; None where some has none."""
    left, gang = list(devices), list[Device]()
    for rank in stage.ranks:
        device = next((each for each in left if each.kind == rank.kind), None)
        if device is None:
            return None
        left.remove(device)
        gang.append(device)
    return gang
