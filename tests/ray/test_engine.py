"""The engine over real actors: launch, train, save, take over, lose an actor, end."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import transformers

from actors.crew import launch
from actors.engine.engine import Engine
from cluster.session import Session
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import SaveContext
from moe.config.run import RunConfig
from moe.config.sampling import Sampling
from moe.errors import LaunchError, RankLost
from moe.planning.plan.plan import Plan
from tests import runs, tiny
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


@pytest.fixture
def engine(ray_session: Session, model: Path, run: RunConfig, plan: Plan) -> Iterator[Engine]:
    started = Engine.train(run, plan, model, runs.LENGTH, resume=False)
    yield started
    started.shutdown()
    assert not launch.running("test")


def test_actors_train_like_one_process_through_a_change_of_driver(
    engine: Engine, model: Path, run: RunConfig, plan: Plan, tmp_path: Path
) -> None:
    config = Checkpoint.open(model).config
    plain = PlainTraining(model, run)
    pids = [rank.pid for rank in engine.status()]
    losses = []
    for step in range(6):
        batch = runs.batch(config, run, step)
        plain.step(batch)
        if step == 3:
            taken = Engine.attach(run, plan)
            assert taken is not None
            engine = taken
            last = engine.last_report()
            assert last is not None
            assert (last.step, last.loss) == (3, losses[-1])
        report = engine.train_step(batch)
        losses.append(report.loss)
        assert report.loss == pytest.approx(plain.losses[-1], rel=1e-5)
        assert report.gradient_norm == pytest.approx(plain.norms[-1], rel=1e-5)
    assert [rank.pid for rank in engine.status()] == pids

    engine.save(tmp_path / "step-00000006", SaveContext(config, run, model, "data"))
    manifest = load_manifest(tmp_path / "step-00000006")
    assert manifest.step == 6
    assert manifest.coefficients == pytest.approx(plain.alphas)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "step-00000006")
    tokens = tiny.tokens(config.vocab_size, 1, 9)
    gap = (theirs(tokens).logits - plain.decoder(tokens).values).abs().max()
    assert gap < 1e-4


def test_generation_equals_transformers(engine: Engine, model: Path) -> None:
    prompt = tiny.tokens(97, 1, 7)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model)
    expected = theirs.generate(
        prompt, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    fed, ours = prompt[0].tolist(), []
    for _ in range(12):
        sampled = engine.infer("one", fed, Sampling())
        ours.append(sampled.token)
        fed = [sampled.token]
    engine.release("one")
    assert ours == expected[0, 7:].tolist()


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_actor_fails_the_step_at_once_and_by_name(
    victim: int, engine: Engine, model: Path, run: RunConfig, plan: Plan
) -> None:
    config = Checkpoint.open(model).config
    engine.train_step(runs.batch(config, run, 0))
    os.kill(engine.status()[victim].pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(RankLost, match=f"rank {victim} died during step 1"):
        engine.train_step(runs.batch(config, run, 1))
    assert time.monotonic() - started < 10
    assert not engine.healthy()
    assert Engine.attach(run, plan) is None


def test_survivors_of_an_abort_meet_under_the_next_epoch(
    engine: Engine, model: Path, run: RunConfig, plan: Plan
) -> None:
    config = Checkpoint.open(model).config
    before = [rank.epoch for rank in engine.status()]
    ray.get(launch.find("test", plan.ranks)[1].abort.remote())
    with pytest.raises(RankLost):
        engine.train_step(runs.batch(config, run, 0))
    again = Engine.attach(run, plan)
    assert again is not None
    assert [rank.epoch for rank in again.status()] == [epoch + 1 for epoch in before]
    report = again.train_step(runs.batch(config, run, 0))
    plain = PlainTraining(model, run)
    plain.step(runs.batch(config, run, 0))
    assert report.loss == pytest.approx(plain.losses[0], rel=1e-5)


def test_a_plan_larger_than_the_cluster_is_refused_and_leaves_nothing(
    ray_session: Session, model: Path, run: RunConfig
) -> None:
    config = Checkpoint.open(model).config
    wide = runs.plan(config, (1, 1, 1), (1, 1, 1), (2, 1, 1))
    with pytest.raises(LaunchError, match="needs 9 CPU for its 9 ranks but the cluster has 8"):
        Engine.train(run, wide, model, runs.LENGTH, resume=False)
    assert not launch.running("test")


def test_a_model_that_cannot_be_read_leaves_nothing(
    ray_session: Session, model: Path, run: RunConfig, plan: Plan, tmp_path: Path
) -> None:
    other = tiny.saved(tiny.mixtral(num_hidden_layers=4), tmp_path / "other")
    with pytest.raises(Exception, match="the plan was made for layers = 3, the model has 4"):
        Engine.train(run, plan, other, runs.LENGTH, resume=False)
    assert not launch.running("test")
    assert not [g for g in ray.util.placement_group_table().values() if g["state"] == "CREATED"]
