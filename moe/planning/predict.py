"""What a plan will take: seconds of a step, played by the simulator, and bytes of every rank.

A step is the schedule with what travels between its stages; then, where replicas are, the sum of
their gradients; where embedding and head are tied across stages, the sum of the two gradients; and
the optimiser. What every step costs beside (commands, reports) is in no term.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.planning.counts.memory import Place, RankBytes, rank_bytes
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import slowest
from moe.planning.plan import Plan
from moe.planning.schedules.schedule import in_flight
from moe.planning.schedules.simulate import StageTimes, Timeline, simulate
from moe.planning.stages.gang import GangCosts, StageCost
from moe.planning.stages.member import Member

Columns = Sequence[Sequence[Device]]
"""Devices of a gang: for each member, one in each replica."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Costs of each stage and each hop between two, and bytes of each rank."""

    stages: tuple[StageCost, ...]
    hops: tuple[float, ...]
    tied_seconds: float
    rank_bytes: tuple[RankBytes, ...]
    workload: Workload
    replicas: int = 1

    @property
    def stage_seconds(self) -> tuple[float, ...]:
        """Seconds of one micro-batch on each stage, forward and backward."""
        return tuple(stage.seconds for stage in self.stages)

    @property
    def slowest_seconds(self) -> float:
        """The stage that all others wait for."""
        return max(self.stage_seconds)

    @property
    def timeline(self) -> Timeline:
        """When each stage works, in one step up to its optimiser.

        A stage asks for a tensor when it has nothing else to do, so its way is part of its time.
        """
        ways = (0.0, *self.hops, 0.0)
        times = [
            StageTimes(each.forward + before, each.backward + after, each.reduce)
            for each, before, after in zip(self.stages, ways, ways[1:], strict=False)
        ]
        none = [0.0] * len(self.hops)
        return simulate(self.workload.schedule, times, self.workload.micro_batches, none)

    @property
    def step_seconds(self) -> float:
        """One step; without training the time until all micro-batches are through."""
        if not self.workload.training:
            ways = (0.0, *self.hops)
            forward = [each.forward + way for each, way in zip(self.stages, ways, strict=True)]
            return sum(forward) + (self.workload.micro_batches - 1) * max(forward)
        return self.timeline.makespan + self.after_seconds

    @property
    def after_seconds(self) -> float:
        """What follows the schedule in a step: the tied gradients, the optimiser."""
        return self.tied_seconds + max(stage.update for stage in self.stages)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all replicas."""
        tokens = self.workload.tokens * self.workload.micro_batches * self.replicas
        return tokens / self.step_seconds


def predict(
    config: ModelConfig, plan: Plan, inventory: Inventory, workload: Workload
) -> Prediction:
    """Return what the plan takes on the devices it names."""
    plan.check_model(config)
    places = places_of(len(plan.stages), workload)
    there = {device.name: device for device in inventory.devices}
    gangs = [
        [
            [there.get(name) or inventory.device(name) for name in rank.devices]
            for rank in stage.ranks
        ]
        for stage in plan.stages
    ]
    stages = []
    for number, stage in enumerate(plan.stages):
        first = number * plan.gang_size
        members = [
            Member(plan.share(first + member), tuple(devices))
            for member, devices in enumerate(gangs[number])
        ]
        costs = GangCosts(config, inventory, workload, members)
        stages.append(costs.fixed(stage.layers, places[number], stage.recompute))
    return Prediction(
        stages=tuple(stages),
        hops=tuple(
            hop_seconds(config, inventory, workload, *gangs[number : number + 2])
            for number in range(len(gangs) - 1)
        ),
        tied_seconds=tied_seconds(config, inventory, workload, gangs[0], gangs[-1])
        if len(gangs) > 1
        else 0.0,
        rank_bytes=rank_bytes_of(config, plan, workload),
        workload=workload,
        replicas=plan.replicas,
    )


def places_of(stages: int, workload: Workload) -> tuple[Place, ...]:
    """Return where each of so many stages stands."""
    if workload.training:
        kept = in_flight(workload.schedule, stages, workload.micro_batches)
    else:
        kept = (1,) * stages
    return tuple(
        Place(count, (number == 0, number == stages - 1)) for number, count in enumerate(kept)
    )


def hop_seconds(
    config: ModelConfig, inventory: Inventory, workload: Workload, one: Columns, other: Columns
) -> float:
    """Return the time that hidden states of a micro-batch travel from one gang to the next."""
    size = workload.tokens * config.hidden_size * workload.numerics.message
    return max(inventory.link(*pair).seconds(size) for pair in _pairs(one, other))


def tied_seconds(
    config: ModelConfig, inventory: Inventory, workload: Workload, first: Columns, last: Columns
) -> float:
    """Return the time to sum the gradients of an embedding that is the head of the last stage."""
    if not (config.tie_embeddings and workload.training):
        return 0.0
    rows = -(-config.vocab_size // len(first))
    size = rows * config.hidden_size * workload.numerics.gradient
    return slowest([inventory.link(*pair) for pair in _pairs(first, last)]).all_reduce_seconds(
        size, 2
    )


def rank_bytes_of(config: ModelConfig, plan: Plan, workload: Workload) -> tuple[RankBytes, ...]:
    """Return what each rank of the plan needs, by what it is for."""
    places = places_of(len(plan.stages), workload)
    return tuple(
        rank_bytes(
            config,
            plan.share(rank),
            places[rank // plan.gang_size],
            workload,
            plan.stages[rank // plan.gang_size].recompute,
            plan.replicas,
        )
        for rank in range(plan.ranks)
    )


def bytes_per_rank(config: ModelConfig, plan: Plan, workload: Workload) -> tuple[int, ...]:
    """Return the bytes each rank needs, process included: what to ask a scheduler for."""
    return tuple(each.total for each in rank_bytes_of(config, plan, workload))


def _pairs(one: Columns, other: Columns) -> list[tuple[Device, Device]]:
    """Return devices of a gang with their counterparts in the other, one pair of each sort."""
    pairs = {
        (here.spot, there.spot): (here, there)
        for mine, theirs in zip(one, other, strict=True)
        for here, there in zip(mine, theirs, strict=True)
    }
    return list(pairs.values())
