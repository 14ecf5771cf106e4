"""Run sections, plans and batches for tests that train."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.commands import StepInput
from moe.config.model import ModelConfig
from moe.config.run import RunConfig, parse_run
from moe.planning.plan.plan import LayerExperts, Plan, RankPlan, StagePlan
from moe.planning.stages.split import groups, spans

LENGTH = 12


def run_config(model: Path, **sections: dict[str, Any]) -> RunConfig:
    """Return a small run; ``train={"steps": 3}`` and the like change single keys.

    AdamW divides by the size of the gradient: where that is zero but for rounding, the update is
    rounding too. An epsilon above rounding keeps the two ways of computing comparable.
    """
    table: dict[str, dict[str, Any]] = {
        "model": {"path": str(model)},
        "data": {"path": "unused"},
        "train": {
            "steps": 20,
            "global_batch": 8,
            "micro_batch": 2,
            "learning_rate": 3e-3,
            "warmup_steps": 2,
            "clip_norm": 0.5,
            "epsilon": 1e-4,
        },
        "checkpoint": {"path": "unused"},
        "balance": {"loss": "switch", "coefficient": {"beta": 0.5}},
    }
    for section, keys in sections.items():
        table[section] = table.get(section, {}) | keys
    if "schedule" in table["train"]:
        table.setdefault("plan", {"path": "unused"})
    return parse_run({"name": "test", **table}, "test")


def plan(
    config: ModelConfig,
    layers: tuple[int, ...],
    heads: tuple[int, ...] | None = None,
    experts: tuple[int, ...] | None = None,
) -> Plan:
    """Return a plan by the number of layers of each stage and key-value heads of each rank."""
    heads = heads or (config.kv_heads,)
    owned = groups(experts or (config.experts,)) if config.placed_experts else ((),) * len(heads)
    wide = config.ffn_size - len(heads) + 1
    columns = spans((wide, *(1 for _ in heads[1:])))
    members = tuple(
        RankPlan(("test",), kv, ffn, own)
        for kv, ffn, own in zip(spans(heads), columns, owned, strict=True)
    )
    stages = tuple(StagePlan(cut, members) for cut in spans(layers))
    return Plan(config.summary(), stages)


def splitting(plan: Plan, rows: tuple[int, ...]) -> Plan:
    """Return the plan with so many rows of the vocabulary on each rank of a gang."""

    def split(stage: StagePlan) -> StagePlan:
        pairs = zip(stage.ranks, spans(rows), strict=True)
        return replace(stage, ranks=tuple(replace(rank, vocabulary=own) for rank, own in pairs))

    return replace(plan, stages=tuple(split(stage) for stage in plan.stages))


def recomputing(plan: Plan, layers: Sequence[int]) -> Plan:
    """Return the plan with these layers run again in the backward pass."""
    stages = [
        replace(stage, recompute=tuple(n for n in stage.layer_numbers if n in layers))
        for stage in plan.stages
    ]
    return replace(plan, stages=tuple(stages))


def placing(plan: Plan, experts: Mapping[int, tuple[tuple[int, ...], ...]]) -> Plan:
    """Return the plan with the experts of some layers held as said, by member of the gang."""
    stages = [
        replace(
            stage,
            expert_layout=tuple(
                LayerExperts(n, experts[n]) for n in stage.layer_numbers if n in experts
            ),
        )
        for stage in plan.stages
    ]
    return replace(plan, stages=tuple(stages))


def batch(config: ModelConfig, run: RunConfig, step: int) -> StepInput:
    """Return random tokens and their labels, some of which do not count."""
    generator = np.random.default_rng(step)
    size = (run.train.global_batch, LENGTH)
    tokens = generator.integers(0, config.vocab_size, size, dtype=np.int32)
    labels = np.roll(tokens, -1, axis=1)
    labels[:, -1] = -100
    labels[generator.random(size) < 0.1] = -100
    return StepInput(step, tokens, labels, int((labels != -100).sum()))


def repeated(plan: Plan, replicas: int) -> Plan:
    """Return the plan with so many replicas of its pipeline."""
    stages = [
        replace(
            stage,
            ranks=tuple(
                replace(rank, devices=tuple(f"test/{n}" for n in range(replicas)))
                for rank in stage.ranks
            ),
        )
        for stage in plan.stages
    ]
    return replace(plan, stages=tuple(stages))
