"""From a plan with one span of layers a stage to one with several: the same gangs, other layers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.plan.chunks import chunk_homes
from moe.planning.plan.plan import Plan, StagePlan
from moe.planning.stages.split import spans, split

Spans = tuple[tuple[int, int], ...]


def interleave(
    plan: Plan, chunks: int, folded: bool = False, config: ModelConfig | None = None
) -> Plan:
    """Return the plan with every stage's layers in so many spans, in a loop or ``folded`` to a V.

    Each stage keeps its ranks, its number of layers and how many of them it recomputes: the first
    ones of its new layers, since a schedule keeps most micro-batches of the first span. With the
    model's ``config`` as many MoE blocks as before where it has them, and as many dense ones.
    """
    if plan.chunks > 1:
        raise PlanError(
            f"the plan has {plan.chunks} spans of layers a stage already; give a plan with one"
        )
    own = [number for number, stage in enumerate(plan.stages) if stage.expert_layout]
    if own and (chunks > 1 or folded):
        raise PlanError(
            f"stage {own[0]} has experts of its own for single layers, which move to other stages "
            f"when the layers are cut into {chunks} spans; interleave first, then "
            "`raymoe rebalance`"
        )
    cuts = cut_spans([len(stage.layer_numbers) for stage in plan.stages], chunks, folded)
    if chunks == 1:
        return plan
    pairs = zip(plan.stages, cuts, strict=True)
    return replace(plan, stages=tuple(_recut(stage, spans, config) for stage, spans in pairs))


def cut_spans(sizes: Sequence[int], chunks: int, folded: bool = False) -> tuple[Spans, ...]:
    """Return the spans of stages of so many layers: as even as can be, the first of them longer."""
    if chunks < 1 or (folded and chunks != 2):
        raise PlanError(
            f"asked for {chunks} spans of layers a stage{', folded to a V' if folded else ''}; "
            f"{'a V has 2' if folded else 'ask for at least 1'}"
        )
    for stage, size in enumerate(sizes):
        if size < chunks:
            raise PlanError(
                f"stage {stage} holds {size} of {sum(sizes)} layers, too few for {chunks} spans; "
                f"set plan.chunks to {size} or less, lower plan.stages, or give it more layers"
            )
    shares = [split(size, chunks) for size in sizes]
    homes = chunk_homes(len(sizes), chunks, folded)
    return spans_by_stage([shares[stage][span] for stage, span in homes], len(sizes), folded)


def spans_by_stage(lengths: Sequence[int], stages: int, folded: bool = False) -> tuple[Spans, ...]:
    """Return the spans of every stage from the number of layers of each chunk of the model."""
    held: list[list[tuple[int, int]]] = [[] for _ in range(stages)]
    homes = chunk_homes(stages, len(lengths) // stages, folded)
    for (stage, _), span in zip(homes, spans(lengths), strict=True):
        held[stage].append(span)
    return tuple(map(tuple, held))


def _recut(stage: StagePlan, spans: Spans, config: ModelConfig | None) -> StagePlan:
    first, *more = spans
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
