"""From a plan with one run of layers a stage to one with several: the same gangs, other layers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.plan.chunks import chunk_places
from moe.planning.plan.plan import Plan, StagePlan
from moe.planning.stages.split import spans, split

Runs = tuple[tuple[int, int], ...]


def interleave(
    plan: Plan, chunks: int, folded: bool = False, config: ModelConfig | None = None
) -> Plan:
    """Return the plan with every stage's layers in so many runs, in a loop or ``folded`` to a V.

    Each stage keeps its ranks, its number of layers and how many of them it recomputes: the first
    ones of its new layers, since a schedule keeps most micro-batches of the first run. With the
    model's ``config`` as many MoE blocks as before where it has them, and as many dense ones.
    """
    if plan.chunks > 1:
        raise PlanError(
            f"the plan has {plan.chunks} runs of layers a stage already; give a plan with one"
        )
    placed = [number for number, stage in enumerate(plan.stages) if stage.placement]
    if placed and (chunks > 1 or folded):
        raise PlanError(
            f"stage {placed[0]} places the experts of single layers, which move to other stages "
            f"when the layers are cut into {chunks} runs; interleave first, then `raymoe rebalance`"
        )
    cuts = cut_runs([len(stage.layer_numbers) for stage in plan.stages], chunks, folded)
    if chunks == 1:
        return plan
    pairs = zip(plan.stages, cuts, strict=True)
    return replace(plan, stages=tuple(_recut(stage, runs, config) for stage, runs in pairs))


def cut_runs(sizes: Sequence[int], chunks: int, folded: bool = False) -> tuple[Runs, ...]:
    """Return the runs of stages of so many layers: as even as can be, the first of them longer."""
    if chunks < 1 or (folded and chunks != 2):
        raise PlanError(
            f"asked for {chunks} runs of layers a stage{', folded to a V' if folded else ''}; "
            f"{'a V has 2' if folded else 'ask for at least 1'}"
        )
    for stage, size in enumerate(sizes):
        if size < chunks:
            raise PlanError(
                f"stage {stage} holds {size} of {sum(sizes)} layers, too few for {chunks} runs; "
                f"set plan.chunks to {size} or less, lower plan.stages, or give it more layers"
            )
    shares = [split(size, chunks) for size in sizes]
    places = chunk_places(len(sizes), chunks, folded)
    return runs_by_stage([shares[stage][run] for stage, run in places], len(sizes), folded)


def runs_by_stage(lengths: Sequence[int], stages: int, folded: bool = False) -> tuple[Runs, ...]:
    """Return the runs of every stage from the number of layers of each chunk of the model."""
    held: list[list[tuple[int, int]]] = [[] for _ in range(stages)]
    places = chunk_places(stages, len(lengths) // stages, folded)
    for (stage, _), run in zip(places, spans(lengths), strict=True):
        held[stage].append(run)
    return tuple(map(tuple, held))


def _recut(stage: StagePlan, runs: Runs, config: ModelConfig | None) -> StagePlan:
    first, *more = runs
    bare = replace(stage, layers=first, more=tuple(more), seconds=0.0, recompute=())
    return replace(bare, recompute=_again(stage, bare.layer_numbers, config))


def _again(stage: StagePlan, layers: Sequence[int], config: ModelConfig | None) -> tuple[int, ...]:
    """Return as many of these layers as the stage recomputes, of the same kinds if there are."""

    def kind(layer: int) -> bool:
        return config is not None and config.has_experts(layer)

    wanted = Counter(map(kind, stage.recompute))
    chosen: list[int] = []
    for layer in layers:
        if wanted[kind(layer)] > 0:
            wanted[kind(layer)] -= 1
            chosen.append(layer)
    others = [layer for layer in layers if layer not in chosen]
    return tuple(sorted(chosen + others[: len(stage.recompute) - len(chosen)]))
