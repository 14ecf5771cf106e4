"""Rows that documents share, under plans of all shapes: the curve of documents one by one."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from actors.commands import StepInput
from actors.engine.reports import merge
from actors.engine.resizing import Resized
from actors.step.replicas import check_step
from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.plan.plan import Plan
from tests import agreement, exports, runs
from tests.examples import examples
from tests.healed import HealedRun, at, signalled
from tests.packed_rows import drawn_sizes, step_input
from tests.ranks import Ranks, single_threaded
from tests.reference import PlainTraining
from tests.routed import routed
from tests.unit.actors.test_any_plan import cases, run_of

SECTIONS: list[dict[str, Any]] = [
    {},
    {"balance": {"loss": "skywork", "z_loss": 0.1}},
    {"balance": {"device_loss": 0.5, "device_groups": 2, "scope": "global-batch"}},
]


def batch_of(config: ModelConfig, rows: int, step: int) -> StepInput:
    return step_input(step, drawn_sizes(step, rows, runs.LENGTH), runs.LENGTH, config.vocab_size)


def train_both(ranks: Ranks, model: Path, config: ModelConfig, plan: Plan, run: Any) -> None:
    """Train two steps both ways; what is held after them is compared, too."""
    plain = PlainTraining(model, run)
    team = ranks.started(plan, model, run, runs.LENGTH)
    for step in range(2):
        batch = batch_of(config, run.train.global_batch, step)
        plain.step(batch)
        report = merge(team.step(batch), batch.label_count, 0.0)
        assert report.loss == pytest.approx(plain.losses[-1], rel=1e-5)
        assert report.gradient_norm == pytest.approx(plain.norms[-1], rel=1e-4)
        for layer, rate in plain.drop_rates.items():
            assert report.layers[layer].drop_rate == pytest.approx(rate, abs=1e-6)
            pairs = batch.token_count * (config.moe.top_k if config.moe else 0)
            assert sum(report.layers[layer].load) == pairs
    agreement.check_held(team, plain)


@settings(
    max_examples=examples(5),
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ],
)
@given(case=cases(), sections=st.sampled_from(SECTIONS))
def test_any_plan_trains_like_documents_one_by_one(
    case: tuple[ModelConfig, Plan, str],
    sections: dict[str, Any],
    ranks: Ranks,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config, plan, schedule = case
    model = exports.export(config, tmp_path_factory.mktemp("documents") / "model")
    run = run_of(model, config, sections, schedule)
    try:
        check_step(plan, schedule, run.train.micro_batches)
    except PlanError:
        assume(False)
    train_both(ranks, model, config, plan, run)


def test_a_sliding_window_over_two_stages_that_recompute(ranks: Ranks, tmp_path: Path) -> None:
    config = replace(routed(3), sliding_window=3)
    model = exports.export(config, tmp_path / "model")
    plan = runs.repeated(runs.recomputing(runs.plan(config, (1, 2), (2, 1), (2, 2)), (0, 2)), 2)
    train_both(ranks, model, config, plan, runs.run_config(model))


def test_a_run_on_documents_heals_and_changes_its_plan(ranks: Ranks, tmp_path: Path) -> None:
    config = routed(3, gate_norm=1.0)
    model = exports.export(config, tmp_path / "model")
    elastic = {"copy_every": 1, "hang_seconds": 1.0, "max_failures": 9}
    run = runs.run_config(model, elastic=elastic, cluster={"group_seconds": 20.0})
    first, second = runs.plan(config, (2, 1)), runs.plan(config, (1, 1, 1))
    curves = []
    for plan, strikes in (
        (runs.plan(config, (3,)), ()),
        (first, (at(2, signalled(signal.SIGKILL, 1)), at(4, lambda run: run.wish(second)))),
    ):
        trained = HealedRun.begun(ranks, single_threaded(plan), run)
        trained.batch = lambda config, run, step: batch_of(config, run.train.global_batch, step)
        trained.go(lambda run, step, own=strikes: [each(run, step) for each in own], until=6)
        curves.append(trained.losses)
    assert len(trained.healed) == 1
    assert [type(each) for each in trained.resized] == [Resized]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
