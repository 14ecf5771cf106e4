"""Whatever the plan, the schedule, the number of replicas, the options: one process's numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from actors.step.replicas import check_step
from moe.config.model import ModelConfig
from moe.config.run import RunConfig, parse_run
from moe.config.tensors import tensors
from moe.config.tuning import targets_of
from moe.errors import PlanError
from moe.planning.plan.plan import Plan
from tests import exports, plans, runs
from tests.examples import examples
from tests.ranks import Ranks
from tests.routed import routed
from tests.training import train_both

MOST_RANKS = 6

MODELS: list[dict[str, Any]] = [
    {},
    {"experts": 5, "gate_norm": 1.0},
    {"experts": 5, "shared_size": 11, "dense_layers": (0,), "renormalise": False},
    {"experts": 3, "shared_size": 13, "shared_gate": True, "dense_layers": (0, 2), "scale": 2.0},
    {"score": "sigmoid", "balance_bias": True, "groups": 2, "top_groups": 1},
    {"top_k": 1, "hashed": True},
    {"top_k": 1, "segment_tokens": 5, "expert_size": 40, "dense_layers": (1,)},
]
"""Architectures: plain, gates normalised, DeepSeekMoE's, a bias on the choice, hashed, merged."""

SECTIONS: list[dict[str, Any]] = [
    {},
    {"balance": {"loss": "skywork", "z_loss": 0.1}},
    {"balance": {"device_loss": 0.5, "device_groups": 2, "scope": "sequence"}},
    {"balance": {"scope": "global-batch"}, "routing": {"capacity_factor": 0.8}},
    {"routing": {"capacity_factor": 0.9, "drop_policy": "position"}},
    {"routing": {"choose": "experts"}, "balance": {"z_loss": 0.1}},
]


TUNINGS = ["all", "all", "ends frozen", "layers frozen", "experts frozen", "attention", "factors"]
"""What is trained: the model, parts of it, factors beside attention or beside all that has them."""


def tuning_of(tuning: str, config: ModelConfig) -> dict[str, Any]:
    """Return the keys of ``[train]`` for what is trained."""
    there = {targets_of(each.role)[0] for each in tensors(config) if targets_of(each.role)}
    if config.moe is not None and config.moe.merged:
        there -= {"experts", "router"}
    lora = {"rank": 2, "alpha": 3.0, "seed": 5}
    return {
        "all": {},
        "ends frozen": {
            "freeze": ["model.embed_tokens.*", "lm_head.*"][: 2 - config.tie_embeddings]
        },
        "layers frozen": {"freeze": ["model.layers.0.*", "model.layers.2.*"]},
        "experts frozen": {"freeze": ["*.mlp.*"]},
        "attention": {"lora": lora | {"targets": ["k_proj", "o_proj"]}},
        "factors": {"lora": lora | {"targets": sorted(there), "rslora": True}},
    }[tuning]


def run_of(
    model: Path, config: ModelConfig, sections: dict[str, Any], schedule: str, tuning: str = "all"
) -> RunConfig:
    """Return a run of 7 micro-batches or, where rounds must divide them, of 8."""
    table = runs.run_config(model).model_dump(mode="json") | {"balance": {}} | sections
    batch = 14 if schedule in ("gpipe", "1f1b", "zbv") else 16
    table["train"] |= {"schedule": schedule, "global_batch": batch}
    table["train"] |= tuning_of(tuning, config)
    table["plan"] = {"path": "unused"}
    if config.moe is not None and config.moe.balance_bias:
        table["routing"].pop("choose", None)
        moves = tuning in ("all", "ends frozen")
        table["balance"] = {"coefficient": {"type": "bias", "rate": 0.05}} if moves else {}
    elif config.moe is not None and not config.moe.gated:
        table["balance"], table["routing"] = {}, {}
    return parse_run(table, "test")


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelConfig, Plan, str]:
    """Draw a model, a plan for it of any shape, and a schedule that suits the plan."""
    config = routed(draw(st.integers(3, 6)), **draw(st.sampled_from(MODELS)))
    config = replace(config, tie_embeddings=draw(st.booleans()))
    chunks = draw(st.sampled_from([1, 1, 2]))
    plan = draw(plans.plans(config, chunks=chunks))
    assume(plan.ranks <= MOST_RANKS)
    replicas = draw(st.integers(1, min(3, MOST_RANKS // plan.ranks)))
    schedules = ["gpipe", "1f1b", "interleaved-1f1b", "zero-bubble", "zbv"]
    schedule = draw(st.sampled_from(schedules))
    return config, runs.repeated(plan, replicas), schedule


@settings(
    max_examples=examples(20),
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ],
)
@given(case=cases(), sections=st.sampled_from(SECTIONS), tuning=st.sampled_from(TUNINGS))
def test_any_plan_trains_like_one_process(
    case: tuple[ModelConfig, Plan, str],
    sections: dict[str, Any],
    tuning: str,
    ranks: Ranks,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config, plan, schedule = case
    model = exports.export(config, tmp_path_factory.mktemp("any") / "model")
    run = run_of(model, config, sections, schedule, tuning)
    try:
        check_step(plan, schedule, run.train.micro_batches)
    except PlanError:
        assume(False)
    train_both(ranks, model, run, plan, 2)


def test_seven_heads_over_three_ranks_and_five_experts_over_two_of_them(
    ranks: Ranks, tmp_path: Path
) -> None:
    config = replace(routed(3, experts=5), heads=7, kv_heads=7)
    model = exports.export(config, tmp_path / "model")
    plan = runs.plan(config, (3,), (3, 2, 2), (3, 2, 0))
    train_both(ranks, model, runs.run_config(model), plan, 3)


@pytest.mark.parametrize("schedule", ["1f1b", "zero-bubble"])
def test_stages_of_one_and_of_eleven_layers(schedule: str, ranks: Ranks, tmp_path: Path) -> None:
    config = routed(12)
    model = exports.export(config, tmp_path / "model")
    plan = runs.plan(config, (1, 11), (1, 2), (3, 1))
    run = runs.run_config(model, train={"schedule": schedule})
    train_both(ranks, model, run, plan, 3)


def test_a_tied_embedding_over_three_stages_of_two_replicas(ranks: Ranks, tmp_path: Path) -> None:
    config = routed(3)
    model = exports.export(config, tmp_path / "model")
    plan = runs.repeated(runs.plan(config, (1, 1, 1)), 2)
    train_both(ranks, model, runs.run_config(model, train={"global_batch": 12}), plan, 3)


def test_fifty_steps_are_one_curve(ranks: Ranks, tmp_path: Path) -> None:
    """Differences of rounding must not grow: the loss stays within 1e-4 of one process's."""
    config = routed(3, experts=5, gate_norm=1.0, shared_size=11, renormalise=False)
    model = exports.export(config, tmp_path / "model")
    plan = runs.repeated(runs.recomputing(runs.plan(config, (1, 2), (2, 1), (2, 3)), (1,)), 2)
    run = runs.run_config(model, train={"schedule": "zero-bubble", "steps": 50})
    train_both(ranks, model, run, plan, 50, tolerance=1e-4)
