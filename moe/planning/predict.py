"""What a plan will take: seconds of each stage, bytes of each rank. Computed, not measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.planning.costs import (
    CPU_THREAD,
    Rates,
    Work,
    Workload,
    embedding_work,
    head_work,
    layer_work,
)
from moe.planning.inventory import Device, Inventory
from moe.planning.memory import RankBytes, in_flight, rank_bytes
from moe.planning.plan import Plan
from moe.planning.stages import StageCosts


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of one micro-batch on each stage, forward and backward, and bytes of each rank."""

    stage_seconds: tuple[float, ...]
    rank_bytes: tuple[RankBytes, ...]
    micro_batches: int

    @property
    def slowest_seconds(self) -> float:
        """The stage that all others wait for."""
        return max(self.stage_seconds)

    @property
    def step_seconds(self) -> float:
        """One step under 1F1B, without communication and the optimizer: fill, then the slowest."""
        return sum(self.stage_seconds) + (self.micro_batches - 1) * self.slowest_seconds


def predict(
    config: ModelConfig,
    plan: Plan,
    inventory: Inventory,
    workload: Workload,
    rates: Rates = CPU_THREAD,
) -> Prediction:
    """Return what the plan takes on the devices it names."""
    plan.check_model(config)
    seconds = []
    for number, stage in enumerate(plan.stages):
        first = number * plan.gang_size
        shares = [plan.share(first + member) for member in range(plan.gang_size)]
        devices = [inventory.device(rank.device) for rank in stage.ranks]
        costs = stage_costs(config, shares, devices, workload, rates)
        seconds.append(costs.seconds(*stage.layers))
    return Prediction(tuple(seconds), rank_bytes_of(config, plan, workload), workload.micro_batches)


def stage_costs(
    config: ModelConfig,
    shares: Sequence[Share],
    devices: Sequence[Device],
    workload: Workload,
    rates: Rates,
) -> StageCosts:
    """Return the costs of one gang; it waits for its slowest member after every layer."""
    gang = list(zip(shares, devices, strict=True))

    def slowest(work: Callable[[Share], Work]) -> float:
        return max(work(share).seconds(device, rates) for share, device in gang)

    def block(layer: int) -> float:
        return slowest(lambda share: layer_work(config, share, layer, workload))

    extra = 0.0
    if shares[0].embedding:
        extra += slowest(lambda share: embedding_work(config, share, workload))
    if shares[0].head:
        extra += slowest(lambda share: head_work(config, share, workload))
    first = {config.has_experts(layer): layer for layer in reversed(range(config.layers))}
    kinds = {kind: block(layer) for kind, layer in first.items()}
    layers = tuple(kinds[config.has_experts(layer)] for layer in range(config.layers))
    return StageCosts(layers, extra)


def rank_bytes_of(config: ModelConfig, plan: Plan, workload: Workload) -> tuple[RankBytes, ...]:
    """Return what each rank of the plan needs, by what it is for."""
    return tuple(
        rank_bytes(
            config,
            plan.share(rank),
            in_flight(rank // plan.gang_size, len(plan.stages), workload.micro_batches),
            workload,
        )
        for rank in range(plan.ranks)
    )


def bytes_per_rank(config: ModelConfig, plan: Plan, workload: Workload) -> tuple[int, ...]:
    """Return the bytes each rank needs, process included: what to ask a scheduler for."""
    return tuple(each.total for each in rank_bytes_of(config, plan, workload))
