"""Every schedule, any number of replicas: ranks train like one process."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from tests import exports, runs, tiny
from tests.ranks import Ranks
from tests.routed import routed
from tests.training import stepped, train_both


def chunked(config: ModelConfig, *cuts: tuple[tuple[int, int], ...], **gang: Any) -> Plan:
    """Return a plan whose stages hold these spans of layers."""
    plan = runs.plan(config, (1,) * (len(cuts) - 1) + (config.layers - len(cuts) + 1,), **gang)
    stages = [
        replace(stage, layers=cut[0], more=cut[1:])
        for stage, cut in zip(plan.stages, cuts, strict=True)
    ]
    return replace(plan, stages=tuple(stages))


def scheduled(directory: Path, schedule: str, **train: Any) -> RunConfig:
    return runs.run_config(directory, train={"schedule": schedule} | train)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved-1f1b", "zero-bubble"])
@pytest.mark.parametrize("tied", [True, False])
def test_two_stages(schedule: str, tied: bool, ranks: Ranks, tmp_path: Path) -> None:
    directory = tiny.saved(tiny.mixtral(tie_word_embeddings=tied), tmp_path / "model")
    config = Checkpoint.open(directory).config
    plan = runs.plan(config, (1, 2), (2, 1), (1, 3))
    train_both(ranks, directory, scheduled(directory, schedule), plan, 3)


@pytest.mark.parametrize("schedule", ["interleaved-1f1b", "zero-bubble", "zbv"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("gang", [{}, {"heads": (1, 2), "experts": (3, 1)}])
def test_several_runs_of_layers(
    schedule: str, tied: bool, gang: dict[str, Any], ranks: Ranks, tmp_path: Path
) -> None:
    model = tiny.mixtral(tie_word_embeddings=tied, num_hidden_layers=6)
    directory = tiny.saved(model, tmp_path / "model")
    config = Checkpoint.open(directory).config
    cuts = (((0, 1), (3, 5)), ((1, 3), (5, 6)))
    if schedule == "zbv":
        cuts = (((0, 1), (5, 6)), ((1, 3), (3, 5)))
    plan = chunked(config, *cuts, **gang)
    plan = runs.recomputing(plan, (1, 4))
    train_both(ranks, directory, scheduled(directory, schedule), plan, 3)


def test_one_stage_of_two_chunks_sends_nothing(ranks: Ranks, tmp_path: Path) -> None:
    directory = tiny.saved(tiny.mixtral(num_hidden_layers=4), tmp_path / "model")
    config = Checkpoint.open(directory).config
    plan = chunked(config, ((0, 1), (1, 4)))
    train_both(ranks, directory, scheduled(directory, "zbv"), plan, 2)


@pytest.mark.parametrize("replicas", [2, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_replicas_of_one_rank(replicas: int, tied: bool, ranks: Ranks, tmp_path: Path) -> None:
    directory = tiny.saved(tiny.mixtral(tie_word_embeddings=tied), tmp_path / "model")
    config = Checkpoint.open(directory).config
    plan = runs.repeated(runs.plan(config, (3,)), replicas)
    run = scheduled(directory, "1f1b", global_batch=8)
    train_both(ranks, directory, run, plan, 4)


@pytest.mark.parametrize("schedule", ["1f1b", "zero-bubble"])
@pytest.mark.parametrize("shape", [((1, 2), (3,), (4,)), ((3,), (1, 2), (3, 1))])
def test_replicas_of_stages_and_gangs(
    schedule: str, shape: tuple[Any, Any, Any], ranks: Ranks, tmp_path: Path
) -> None:
    directory = tiny.saved(tiny.mixtral(tie_word_embeddings=True), tmp_path / "model")
    config = Checkpoint.open(directory).config
    plan = runs.repeated(runs.plan(config, *shape), 2)
    train_both(ranks, directory, scheduled(directory, schedule), plan, 4)


def test_shared_experts_dense_layers_and_all_losses_over_replicas(
    ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(
        experts=5,
        shared_size=11,
        shared_gate=True,
        dense_layers=(0,),
        renormalise=False,
    )
    directory = exports.export(config, tmp_path / "model")
    run = runs.run_config(
        directory,
        train={"schedule": "zero-bubble"},
        routing={"capacity_factor": 0.9},
        balance={"z_loss": 0.1, "device_loss": 0.5, "device_groups": 2, "scope": "global-batch"},
    )
    plan = runs.repeated(runs.recomputing(runs.plan(config, (1, 2), (3,), (5,)), (1,)), 2)
    train_both(ranks, directory, run, plan, 3)


def test_bfloat16_computes_the_same_where_the_gradients_of_weights_wait(
    ranks: Ranks, tmp_path: Path
) -> None:
    directory = tiny.saved(tiny.mixtral(), tmp_path / "model")
    plan = runs.plan(Checkpoint.open(directory).config, (1, 2), (2, 1), (1, 3))
    found = []
    for schedule in ("1f1b", "zero-bubble"):
        run = scheduled(directory, schedule, precision="bf16")
        team = ranks.started(plan, directory, run, runs.LENGTH)
        reports = [stepped(team, step) for step in range(3)]
        found.append([(report.loss, report.gradient_norm) for report in reports])
    for ours, theirs in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)
