"""The prediction for a plan: seconds of a step, from the simulator, and bytes of every rank.

If a stage holds several spans of layers, each span is a chunk with its own seconds and transfer
times.

A step is the schedule with the messages between its stages; then, with replicas, the sum of their
gradients; with embedding and head tied across stages, the sum of the two gradients; and the
optimiser. Other costs of a step (commands, reports) are not included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from moe.config.model import ModelConfig
from moe.planning.counts.memory import RankBytes, rank_bytes
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import slowest
from moe.planning.plan.chunks import chunk_homes
from moe.planning.plan.plan import Plan
from moe.planning.prediction.positions import plan_positions
from moe.planning.schedules.schedule import actions
from moe.planning.schedules.simulate import StageTimes, Timeline, play
from moe.planning.stages.gang import GangCosts, StageCost
from moe.planning.stages.member import Member

Columns = Sequence[Sequence[Device]]
"""Devices of a gang: for each member, one in each replica."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Costs of each stage, and bytes of each rank.

    ``hops`` are the seconds from each chunk of the model to the next, 0 within a stage; a stage has
    one chunk, or ``chunks`` of them in a loop or ``folded`` to a V.
    """

    stages: tuple[StageCost, ...]
    hops: tuple[float, ...]
    tied_seconds: float
    rank_bytes: tuple[RankBytes, ...]
    workload: Workload
    replicas: int = 1
    chunks: int = 1
    folded: bool = False

    @property
    def stage_seconds(self) -> tuple[float, ...]:
        """Seconds of one micro-batch on each stage, forward and backward."""
        return tuple(stage.seconds for stage in self.stages)

    @property
    def slowest_seconds(self) -> float:
        """Seconds of the slowest stage for one micro-batch, forward and backward."""
        return max(self.stage_seconds)

    @property
    def timeline(self) -> Timeline:
        """The timeline of one step, up to the optimiser.

        A stage waits for a tensor when it has nothing else to do, so the time that the tensor
        travels is part of its own.
        """
        travel = (0.0, *self.hops, 0.0)
        times = [
            StageTimes(forward + before, backward + after, reduce)
            for (forward, backward, reduce), before, after in zip(
                self.chunk_seconds, travel, travel[1:], strict=False
            )
        ]
        work, none = self.workload, [0.0] * len(self.stages)
        orders = actions(work.schedule, len(self.stages), work.micro_batches, self.chunks)
        return play(orders, times, none)

    @property
    def chunk_seconds(self) -> list[tuple[float, float, float]]:
        """Forward and backward of each chunk, and the reduction of its stage, counted once per
        stage.
        """
        found = []
        for stage, span in chunk_homes(len(self.stages), self.chunks, self.folded):
            cost = self.stages[stage]
            forward, backward = cost.spans[span] if cost.spans else (cost.forward, cost.backward)
            found.append((forward, backward, cost.reduce if span == 0 else 0.0))
        return found

    @property
    def step_seconds(self) -> float:
        """Seconds of one step; without training, the time until all micro-batches are done."""
        if not self.workload.training:
            travel = (0.0, *self.hops)
            forward = [each.forward + hop for each, hop in zip(self.stages, travel, strict=True)]
            return sum(forward) + (self.workload.micro_batches - 1) * max(forward)
        return self.timeline.makespan + self.after_seconds

    @property
    def after_seconds(self) -> float:
        """Seconds after the schedule in a step: the tied gradients and the optimiser."""
        return self.tied_seconds + max(stage.update for stage in self.stages)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all replicas."""
        tokens = self.workload.tokens * self.workload.micro_batches * self.replicas
        return tokens / self.step_seconds


def predict(
    config: ModelConfig, plan: Plan, inventory: Inventory, workload: Workload
) -> Prediction:
    """Return the prediction for a plan on the devices that it names."""
    plan.check_model(config)
    positions = plan_positions(plan, workload)
    costs = gang_costs(config, plan, inventory, workload)
    stages = tuple(
        each.of_spans(stage.spans, position, stage.recompute)
        for each, stage, position in zip(costs, plan.stages, positions, strict=True)
    )
    return between_stages(
        config, plan, inventory, workload, stages, rank_bytes_of(config, plan, workload)
    )


def gang_costs(
    config: ModelConfig, plan: Plan, inventory: Inventory, workload: Workload
) -> list[GangCosts]:
    """Return the costs of layers on the gang of each stage."""
    found = []
    for number, columns in enumerate(columns_of(plan, inventory)):
        members = [
            Member(plan.share(seat), tuple(devices))
            for seat, devices in zip(plan.seats.of_stage(number), columns, strict=True)
        ]
        found.append(GangCosts(config, inventory, workload, members))
    return found


def between_stages(
    config: ModelConfig,
    plan: Plan,
    inventory: Inventory,
    workload: Workload,
    stages: tuple[StageCost, ...],
    needed: tuple[RankBytes, ...] = (),
) -> Prediction:
    """Return the prediction for stages with these costs on the gangs of a plan."""
    gangs = columns_of(plan, inventory)
    homes = [stage for stage, _ in plan.chunk_homes]
    ends = homes[0], homes[-1]
    return Prediction(
        stages=stages,
        hops=tuple(
            0.0
            if one == other
            else hop_seconds(config, inventory, workload, gangs[one], gangs[other])
            for one, other in pairwise(homes)
        ),
        tied_seconds=0.0
        if ends[0] == ends[1]
        else tied_seconds(config, inventory, workload, *(gangs[end] for end in ends)),
        rank_bytes=needed,
        workload=workload,
        replicas=plan.replicas,
        chunks=plan.chunks,
        folded=plan.folded,
    )


def columns_of(plan: Plan, inventory: Inventory) -> list[list[list[Device]]]:
    """Return the devices of the gang of each stage."""
    there = {device.name: device for device in inventory.devices}
    return [
        [
            [there.get(name) or inventory.device(name) for name in rank.devices]
            for rank in stage.ranks
        ]
        for stage in plan.stages
    ]


def hop_seconds(
    config: ModelConfig, inventory: Inventory, workload: Workload, one: Columns, other: Columns
) -> float:
    """Return the seconds to send the hidden states of a micro-batch from one gang to the next."""
    size = workload.tokens * config.hidden_size * workload.numerics.message
    return max(inventory.link(*pair).seconds(size) for pair in _pairs(one, other))


def tied_seconds(
    config: ModelConfig, inventory: Inventory, workload: Workload, first: Columns, last: Columns
) -> float:
    """Return the seconds to sum the gradients of an embedding that is tied to the head of the last
    stage.
    """
    if not (config.tie_embeddings and workload.training):
        return 0.0
    rows = -(-config.vocab_size // len(first))
    size = rows * config.hidden_size * workload.numerics.gradient
    return slowest([inventory.link(*pair) for pair in _pairs(first, last)]).all_reduce_seconds(
        size, 2
    )


def rank_bytes_of(config: ModelConfig, plan: Plan, workload: Workload) -> tuple[RankBytes, ...]:
    """Return the bytes that each rank of the plan needs, by purpose."""
    positions = plan_positions(plan, workload)
    return tuple(
        rank_bytes(
            config,
            plan.share(seat),
            positions[seat.stage],
            workload,
            plan.stages[seat.stage].recompute,
            plan.replicas,
        )
        for seat in plan.seats.of_replica(0)
    )


def bytes_per_rank(config: ModelConfig, plan: Plan, workload: Workload) -> tuple[int, ...]:
    """Return the bytes that each rank asks of its node, for its process too.

    Of a rank on a GPU, what its host holds.
    """
    return tuple(each.host or each.total for each in rank_bytes_of(config, plan, workload))


def _pairs(one: Columns, other: Columns) -> list[tuple[Device, Device]]:
    """Return devices of a gang with their counterparts in the other, one pair for each link."""
    pairs = {
        (here.link_key, there.link_key): (here, there)
        for mine, theirs in zip(one, other, strict=True)
        for here, there in zip(mine, theirs, strict=True)
    }
    return list(pairs.values())
