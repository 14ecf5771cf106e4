"""The experts of a plan by stage: where they are, and where the measured load moves them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe.config.model import ModelConfig
from moe.config.share import whole
from moe.errors import PlanError
from moe.planning.counts.work import layer_parameters
from moe.planning.devices.inventory import CPU, Inventory
from moe.planning.experts.expert_layout import ExpertLayout, ExpertMove, moves
from moe.planning.experts.packing import Floats
from moe.planning.experts.rebalance import improve, replicate
from moe.planning.plan.plan import LayerExperts, Plan, StagePlan

Speeds = tuple[tuple[float, ...], ...]
"""Of the ranks of each stage, relative to each other."""

_NUMBER_BYTES = 4


@dataclass(frozen=True, slots=True)
class StageExperts:
    """The experts of one stage before and after, and the load [layers, experts] they are for."""

    stage: int
    before: ExpertLayout
    after: ExpertLayout
    load: Floats
    speeds: tuple[float, ...]

    @property
    def moves(self) -> tuple[ExpertMove, ...]:
        """What the ranks of the gang copy from each other."""
        return moves(self.before, self.after)

    @property
    def ratios(self) -> list[tuple[int, float, float]]:
        """Each layer with the time of its slowest rank over a perfect spread, before and after."""
        before = self.before.imbalance(self.load, self.speeds)
        after = self.after.imbalance(self.load, self.speeds)
        return list(zip(self.before.layers, before, after, strict=True))


def stages_of(
    plan: Plan, layers: Sequence[int], load: Floats, speeds: Speeds
) -> list[StageExperts]:
    """Return the stages whose layers have a load, as they are."""
    strange = [layer for layer in layers if not 0 <= layer < plan.model["layers"]]
    if strange or load.shape[1] != plan.model["experts"]:
        raise PlanError(
            f"the journal has layers up to {max(layers)} of {load.shape[1]} experts, the plan "
            f"{plan.model['layers']} layers of {plan.model['experts']}; give the journal and the "
            "plan of one run"
        )
    found = []
    for number, stage in enumerate(plan.stages):
        rows = [row for row, layer in enumerate(layers) if layer in stage.layer_numbers]
        if rows:
            own = tuple(layers[row] for row in rows)
            now = _layout(plan, number, own)
            found.append(StageExperts(number, now, now, load[rows], speeds[number]))
    return found


def improved(
    plan: Plan, layers: Sequence[int], load: Floats, threshold: float, speeds: Speeds
) -> list[StageExperts]:
    """Return every stage with its experts moved where that gains enough."""
    return [
        replace(each, after=improve(each.before, each.load, threshold, each.speeds))
        for each in stages_of(plan, layers, load, speeds)
    ]


def replicated(
    plan: Plan, layers: Sequence[int], load: Floats, spare: int, speeds: Speeds
) -> list[StageExperts]:
    """Return every stage with so many slots more on each rank, for copies of hot experts."""
    found = []
    for each in stages_of(plan, layers, load, speeds):
        slots = [count + spare for count in each.before.slots]
        after = replicate(each.load, slots, each.speeds, each.before.layers)
        found.append(replace(each, after=after))
    return found


def with_experts(plan: Plan, rebalanced: Sequence[StageExperts]) -> Plan:
    """Return the plan with its experts rebalanced; layers without a measured load stay."""
    stages = list(plan.stages)
    for each in rebalanced:
        stages[each.stage] = _with_experts(stages[each.stage], each.after)
    return replace(plan, stages=tuple(stages))


def joined(stages: Sequence[StageExperts]) -> ExpertLayout:
    """Return one layout for the layers of all stages."""
    return ExpertLayout(
        tuple(layer for each in stages for layer in each.after.layers),
        tuple(experts for each in stages for experts in each.after.experts),
    )


def speeds_of(plan: Plan, inventory: Inventory | None) -> Speeds:
    """Return how fast ranks are: as the inventory says, else by the threads of CPUs."""
    if inventory is None:
        return tuple(
            tuple(float(rank.threads) if rank.kind == CPU else 1.0 for rank in stage.ranks)
            for stage in plan.stages
        )
    return tuple(
        tuple(inventory.strength(inventory.device(rank.device)) for rank in stage.ranks)
        for stage in plan.stages
    )


def expert_bytes(config: ModelConfig, layer: int, numbers: int) -> int:
    """Return the bytes of one expert with so many numbers for each of its parameters."""
    share = whole(config)
    one, none = (
        layer_parameters(config, replace(share, experts=experts), layer).total
        for experts in ((0,), ())
    )
    return _NUMBER_BYTES * numbers * (one - none)


def _layout(plan: Plan, stage: int, layers: tuple[int, ...]) -> ExpertLayout:
    shares = [plan.share(seat) for seat in plan.seats.of_stage(stage)]
    return ExpertLayout(
        layers,
        tuple(
            tuple(tuple(sorted(share.experts_of(layer))) for share in shares) for layer in layers
        ),
    )


def _with_experts(stage: StagePlan, layout: ExpertLayout) -> StagePlan:
    usual = tuple(tuple(sorted(rank.experts)) for rank in stage.ranks)
    kept = [each for each in stage.expert_layout if each.layer not in layout.layers]
    new = [
        LayerExperts(layer, experts)
        for layer, experts in zip(layout.layers, layout.experts, strict=True)
        if experts != usual
    ]
    return replace(stage, expert_layout=tuple(sorted(kept + new, key=lambda each: each.layer)))
