"""Makes a plan: which devices form which gang, who holds which slice, where the layers are cut.

Stages and gang size are given. Gangs are formed within nodes; stages follow the inventory's order;
layers are then cut so that the slowest stage is as fast as can be. Memory does not steer the cut:
a rank that would not fit is an error that names it.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from moe.config.model import ModelConfig
from moe.config.share import Share, shared_span, whole
from moe.errors import PlanError
from moe.planning.costs import CPU_THREAD, Rates, Workload
from moe.planning.inventory import Device, Inventory, check_one_sort
from moe.planning.memory import RankBytes
from moe.planning.plan import Plan, RankPlan, StagePlan
from moe.planning.predict import rank_bytes_of, stage_costs
from moe.planning.stages import split_layers
from moe.planning.tensor import groups, spans, split

Gang = tuple[Device, ...]
Span = tuple[int, int]


def make_plan(
    config: ModelConfig,
    inventory: Inventory,
    stages: int,
    gang: int,
    workload: Workload,
    rates: Rates = CPU_THREAD,
) -> Plan:
    """Return the plan for this many stages and ranks per stage, or say why there is none."""
    check_one_sort("the inventory", ((each.name, each.kind) for each in inventory.devices))
    _check_shape(config, inventory, stages, gang)
    gangs = choose_gangs(inventory, stages, gang)
    ranks = [_ranks(config, members) for members in gangs]
    costs = [
        stage_costs(config, _shares(config, ranks[stage], stage, stages), members, workload, rates)
        for stage, members in enumerate(gangs)
    ]
    cuts = split_layers(costs)
    plan = Plan(
        model=config.summary(),
        stages=tuple(
            StagePlan(layers=cut, ranks=ranks[stage], seconds=costs[stage].seconds(*cut))
            for stage, cut in enumerate(cuts)
        ),
    )
    plan.check_kinds()
    check_memory(config, plan, inventory, workload)
    return plan


def even_layers(plan: Plan) -> Plan:
    """Return the same gangs with the layers spread evenly: what a plan is compared with."""
    cuts = spans(split(plan.model["layers"], len(plan.stages)))
    stages = (
        replace(stage, layers=cut, seconds=0.0)
        for stage, cut in zip(plan.stages, cuts, strict=True)
    )
    return replace(plan, stages=tuple(stages))


def choose_gangs(inventory: Inventory, stages: int, gang: int) -> tuple[Gang, ...]:
    """Return the devices of each stage: of one kind on one node, then of one kind, then of any.

    Within those like goes with like. Where more gangs could be formed than asked for, those within
    a node go first, then those of one kind, then the fast.
    """
    local, left = _gangs(inventory.devices, gang, lambda device: (device.kind, device.node))
    alike, left = _gangs(left, gang, lambda device: device.kind)
    mixed, _ = _gangs(left, gang, lambda device: None)
    chosen = [*local, *alike, *mixed][:stages]
    order = {device.name: number for number, device in enumerate(inventory.devices)}
    return tuple(sorted(chosen, key=lambda members: min(order[each.name] for each in members)))


def check_memory(config: ModelConfig, plan: Plan, inventory: Inventory, workload: Workload) -> None:
    """Raise PlanError for the first rank that its device cannot hold."""
    for number, need in enumerate(rank_bytes_of(config, plan, workload)):
        device = inventory.device(plan.rank(number).device)
        if need.total > device.memory_bytes:
            raise PlanError(
                f"rank {number} (stage {number // plan.gang_size}) needs {_gigabytes(need.total)} "
                f"({_shown(need)}) but device {device.name} has "
                f"{_gigabytes(device.memory_bytes)}; raise plan.stages or plan.gang, "
                "lower the micro-batch or the sequence length, or use a device with more memory"
            )


def _check_shape(config: ModelConfig, inventory: Inventory, stages: int, gang: int) -> None:
    if stages < 1 or gang < 1:
        raise PlanError(
            f"asked for {stages} stages of {gang} ranks; "
            "set plan.stages and plan.gang to at least 1"
        )
    needed, there = stages * gang, len(inventory.devices)
    if needed > there:
        raise PlanError(
            f"plan needs {needed} ranks ({stages} stages x gang of {gang}) but {there} devices "
            "are there; lower plan.stages or plan.gang, or add devices"
        )
    if stages > config.layers:
        raise PlanError(
            f"plan needs {stages} stages but the model has {config.layers} layers; "
            f"lower plan.stages to {config.layers} or less"
        )
    limits = [("key-value heads", config.kv_heads), ("feed-forward columns", config.ffn_size)]
    if config.moe is not None:
        limits.append(("experts", config.experts))
    if config.shared_size:
        limits.append(("columns of the shared expert", config.shared_size))
    for what, count in limits:
        if gang > count:
            raise PlanError(
                f"plan needs a gang of {gang} ranks but the model has {count} {what}, and a rank "
                f"holds at least one; lower plan.gang to {count} or less and raise plan.stages"
            )


def _ranks(config: ModelConfig, members: Gang) -> tuple[RankPlan, ...]:
    """Cut heads, feed-forward columns and experts of one gang by the speed of its devices."""
    weights = [device.threads_worth for device in members]
    heads = spans(split(config.kv_heads, len(members), weights))
    columns = _columns(config, weights)
    experts: Sequence[tuple[int, ...]] = [()] * len(members)
    if config.moe is not None:
        experts = groups(split(config.experts, len(members), weights))
    return tuple(
        RankPlan(
            devices=(device.name,),
            kv_heads=heads[member],
            ffn=columns[member],
            experts=experts[member],
            threads=device.threads,
            kind=device.kind,
        )
        for member, device in enumerate(members)
    )


def _columns(config: ModelConfig, weights: Sequence[float]) -> tuple[Span, ...]:
    """Cut the feed-forward, and where that leaves a rank nothing of the shared expert, the latter.

    The feed-forward is then cut at the first column that goes with each cut of the shared expert.
    """
    columns = spans(split(config.ffn_size, len(weights), weights))
    cut = [shared_span(config, span) for span in columns]
    if not config.shared_size or all(start < stop for start, stop in cut):
        return columns
    edges = accumulate(split(config.shared_size, len(weights), weights), initial=0)
    return tuple(pairwise(-(-edge * config.ffn_size // config.shared_size) for edge in edges))


def _shares(config: ModelConfig, ranks: Sequence[RankPlan], stage: int, stages: int) -> list[Share]:
    """Return the shares of a gang before its layers are known."""
    ends = replace(whole(config), embedding=stage == 0, head=stage == stages - 1)
    return [
        replace(ends, kv_heads=rank.kv_heads, ffn=rank.ffn, experts=rank.experts) for rank in ranks
    ]


def _gangs(
    devices: Sequence[Device], size: int, key: Callable[[Device], Hashable]
) -> tuple[list[Gang], list[Device]]:
    """Form gangs of devices of equal keys; return them, fast first, and the devices left."""
    pools: dict[Hashable, list[Device]] = defaultdict(list)
    for device in sorted(devices, key=lambda device: -device.threads_worth):
        pools[key(device)].append(device)
    made: list[Gang] = []
    left: list[Device] = []
    for pool in pools.values():
        full = len(pool) // size * size
        made += [tuple(pool[start : start + size]) for start in range(0, full, size)]
        left += pool[full:]
    return sorted(made, key=_slowness), left


def _slowness(members: Gang) -> float:
    return -sum(device.threads_worth for device in members)


def _shown(need: RankBytes) -> str:
    parts = {
        "weights": need.weights,
        "gradients": need.gradients,
        "AdamW": need.optimizer,
        "activations": need.activations,
        "process": need.process,
    }
    return ", ".join(f"{what} {_gigabytes(size)}" for what, size in parts.items() if size)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
