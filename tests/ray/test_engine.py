"""Engines over Ray actors: launched, found again by another driver, refused, ended."""

import os
import signal
import time
from pathlib import Path

import pytest
import ray

from actors.crew import ending
from actors.deadlines import Deadlines
from actors.engine import over_ray
from actors.engine.healing import Making
from actors.state.sources import Blank, ModelSource
from cluster.session import Session
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.errors import LaunchError, RankLost
from moe.planning.plan.plan import Plan
from tests import batches, runs, tiny
from tests.local_decoder import LocalDecoder, continued
from tests.reference import PlainTraining

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def run(model: Path) -> RunConfig:
    return runs.run_config(model, cluster={"group_seconds": 20.0})


@pytest.fixture(scope="module")
def plan(model: Path) -> Plan:
    return runs.plan(Checkpoint.open(model).config, (1, 2), (2, 1), (3, 1))


def test_actors_train_through_a_change_of_driver_until_one_is_killed(
    ray_session: Session, model: Path, run: RunConfig, plan: Plan
) -> None:
    config, plain = Checkpoint.open(model).config, PlainTraining(model, run)
    engine = over_ray.train(run, plan, ModelSource(model), runs.LENGTH)
    try:
        pids = [rank.pid for rank in engine.status()]
        for step in range(3):
            plain.step(runs.batch(config, run, step))
            if step == 2:
                making = Making(run, Blank(config), runs.LENGTH)
                taken = over_ray.attach(plan, making)
                assert taken is not None
                assert taken.sound()
                engine = taken
            report = engine.train_step(runs.batch(config, run, step))
            assert report.loss == pytest.approx(plain.losses[-1], rel=1e-5)
        assert [rank.pid for rank in engine.status()] == pids
        os.kill(pids[2], signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(RankLost, match="rank 2 died during step 3"):
            engine.train_step(runs.batch(config, run, 3))
        assert time.monotonic() - started < 10
        left = over_ray.attach(plan, making)
        assert left is not None
        assert not left.sound()
    finally:
        engine.shutdown()
    assert not ending.running("test")


def test_actors_generate_like_one_process(ray_session: Session, model: Path, plan: Plan) -> None:
    engine = over_ray.serve("serve", model, plan, Deadlines(), batches.HOW)
    try:
        tokens, position = (5, 17, 3), 0
        for expected in continued(LocalDecoder(model), tokens, 3):
            output = engine.finish(engine.begin(batches.fed(tokens, position)))
            assert output.drawn[1].token == expected.token
            tokens, position = (expected.token,), position + len(tokens)
    finally:
        engine.shutdown()
    assert not ending.running("serve")


def test_a_plan_larger_than_the_cluster_is_refused_and_leaves_nothing(
    ray_session: Session, model: Path, run: RunConfig
) -> None:
    config = Checkpoint.open(model).config
    wide = runs.plan(config, (1, 1, 1), (1, 1, 1), (2, 1, 1))
    with pytest.raises(LaunchError, match="needs 9 CPU for its 9 ranks but the cluster has 8"):
        over_ray.train(run, wide, ModelSource(model), runs.LENGTH)
    assert not ending.running("test")


def test_a_model_that_cannot_be_read_leaves_nothing(
    ray_session: Session, model: Path, run: RunConfig, plan: Plan, tmp_path: Path
) -> None:
    other = tiny.saved(tiny.mixtral(num_hidden_layers=4), tmp_path / "other")
    with pytest.raises(Exception, match="the plan was made for layers = 3, the model has 4"):
        over_ray.train(run, plan, ModelSource(other), runs.LENGTH)
    assert not ending.running("test")
    assert not [g for g in ray.util.placement_group_table().values() if g["state"] == "CREATED"]
