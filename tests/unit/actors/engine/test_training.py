"""The training engine over processes: takeover, kills, new epochs, several drivers, checkpoints."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from actors.commands import StepReport
from actors.engine.healing import Healed, Making, Surroundings
from actors.engine.training import TrainingEngine
from actors.state.sources import Blank, ModelSource
from actors.step.replicas import part_of
from moe.checkpoint.drafts import drafted
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import About, SaveContext, complete
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.errors import DeadlineExceeded, OutOfMemory, PlanError, RankDied, RankLost
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests import runs, tiny
from tests.ranks import PooledCrew, Ranks, single_threaded
from tests.reference import PlainTraining


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def config(model: Path) -> ModelConfig:
    return Checkpoint.open(model).config


@pytest.fixture
def run(model: Path) -> RunConfig:
    return runs.run_config(model, cluster={"group_seconds": 20.0})


@pytest.fixture(scope="module")
def gangs(config: ModelConfig) -> Plan:
    """Two stages of two ranks."""
    return single_threaded(runs.plan(config, (1, 2), (2, 1), (3, 1)))


@pytest.fixture(scope="module")
def replicas(config: ModelConfig) -> Plan:
    """Two replicas of two stages."""
    return single_threaded(runs.repeated(runs.plan(config, (1, 2)), 2))


@pytest.fixture(scope="module")
def stages(config: ModelConfig) -> Plan:
    """Two stages of one rank."""
    return single_threaded(runs.plan(config, (1, 2)))


class Trained:
    """An engine, the crew it commands, and one process that trains on the same batches."""

    def __init__(self, ranks: Ranks, run: RunConfig, plan: Plan, model: Path) -> None:
        self.run, self.plan = run, plan
        self.config = Checkpoint.open(model).config
        self.crew: PooledCrew = ranks.crew(plan.seats)
        self.engine = TrainingEngine.train(self.crew, run, plan, ModelSource(model), runs.LENGTH)
        self.plain = PlainTraining(model, run)

    def batch(self, step: int) -> Any:
        return runs.batch(self.config, self.run, step)

    def step(self, step: int) -> StepReport:
        """Train a step both ways and compare."""
        self.plain.step(self.batch(step))
        return self.compare(self.engine.train_step(self.batch(step)))

    def compare(self, report: StepReport) -> StepReport:
        assert report.loss == pytest.approx(self.plain.losses[-1], rel=1e-5)
        assert report.gradient_norm == pytest.approx(self.plain.norms[-1], rel=1e-5)
        return report

    def attach(self) -> TrainingEngine:
        """Return the engine of another driver."""
        making = Making(self.run, Blank(self.config), runs.LENGTH)
        engine = TrainingEngine.attach(self.crew, self.plan, making)
        assert engine is not None
        return engine

    def taken_over(self) -> TrainingEngine:
        """Have another driver take the ranks over, and mend them where it must."""
        self.engine = self.attach()
        if not self.engine.sound():
            found = self.engine.recover(Surroundings(0, 0, patient=True))
            assert isinstance(found, Healed), found
        return self.engine

    def save(self, to: Path, step: int) -> Path:
        context = SaveContext(self.config, self.run, self.run.model.path, "data")
        with drafted(to) as draft:
            self.engine.snapshot(step)
            written = self.engine.write(draft, step).result()
            complete(draft, About(context, to_dict(self.plan), step), written)
        return to

    def pid(self, rank: int) -> int:
        return self.engine.status()[rank].pid


def until(seen: Any) -> None:
    deadline = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ranks_train_like_one_process_through_a_change_of_driver(
    ranks: Ranks, run: RunConfig, gangs: Plan, model: Path, tmp_path: Path
) -> None:
    trained = Trained(ranks, run, gangs, model)
    pids = [rank.pid for rank in trained.engine.status()]
    reports = [trained.step(step) for step in range(3)]
    taken = trained.taken_over()
    last = taken.last_report()
    assert last is not None
    assert (last.step, last.loss) == (3, reports[-1].loss)
    assert taken.train_step(trained.batch(2)).loss == reports[-1].loss, "the last step again"
    for step in range(3, 5):
        trained.step(step)
    assert [rank.pid for rank in taken.status()] == pids
    assert {rank.epoch for rank in taken.status()} == {1}

    saved = trained.save(tmp_path / "step-00000005", 5)
    manifest = load_manifest(saved)
    assert manifest.step == 5
    assert manifest.coefficients == pytest.approx(trained.plain.alphas)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(saved)
    tokens = tiny.tokens(trained.config.vocab_size, 1, 9)
    gap = (theirs(tokens).logits - trained.plain.decoder(tokens).values).abs().max()
    assert gap < 1e-4


@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_killed_in_a_step_is_named_at_once(
    victim: int, ranks: Ranks, run: RunConfig, gangs: Plan, model: Path
) -> None:
    trained = Trained(ranks, run, gangs, model)
    trained.step(0)
    pids = [rank.pid for rank in trained.engine.status()]
    os.kill(pids[victim], signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        step = pool.submit(trained.engine.train_step, trained.batch(1))
        asked = [seat for seat in gangs.seats if gangs.seats.rank(seat) != victim]
        until(lambda: all(trained.crew.tell(s, "status").result(20).busy for s in asked))
        started = time.monotonic()
        os.kill(pids[victim], signal.SIGKILL)
        with pytest.raises(RankDied, match=rf"rank {victim} died during step 1: .* code -9"):
            step.result(20)
    assert time.monotonic() - started < 10


def test_memory_that_is_short_is_told_with_what_was_predicted_and_ranks_live_on(
    ranks: Ranks, run: RunConfig, stages: Plan, model: Path
) -> None:
    trained = Trained(ranks, run, stages, model)
    pids = [rank.pid for rank in trained.engine.status()]
    cases = (
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", r"CUDA out of memory\. Tried"),
        ("", r".*can't allocate memory: you tried to allocate 4503599627370496 bytes"),
    )
    for text, told in cases:
        failing = trained.crew.tell(Seat(0, 1, 0), "fail_once", torch.OutOfMemoryError, text)
        failing.result(20)
        expected = (
            rf"^rank 1 failed during step 0: {told}.*; the planner predicts 0\.\d+ GB for the "
            r"whole rank: lower train\.micro_batch, recompute more layers of stage 1, or make"
        )
        with pytest.raises(OutOfMemory, match=expected):
            trained.engine.train_step(trained.batch(0))
        trained.taken_over()
    trained.step(0)
    assert [rank.pid for rank in trained.engine.status()] == pids


def test_a_rank_that_lost_its_gpu_ends_and_a_new_one_takes_its_place(
    ranks: Ranks, run: RunConfig, stages: Plan, model: Path
) -> None:
    trained = Trained(ranks, run, stages, model)
    text = "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in ..."
    failing = trained.crew.tell(Seat(0, 1, 0), "fail_once", torch.AcceleratorError, text)
    failing.result(20)
    with pytest.raises(RankDied, match=r"rank 1 died during step 0: .* ended with code 70"):
        trained.engine.train_step(trained.batch(0))
    Trained(ranks, run, stages, model).step(0)


def test_ranks_that_left_meet_under_the_next_epoch(
    ranks: Ranks, run: RunConfig, gangs: Plan, model: Path
) -> None:
    trained = Trained(ranks, run, gangs, model)
    trained.crew.tell(Seat(0, 0, 1), "abort").result(20)
    with pytest.raises(RankLost):
        trained.engine.train_step(trained.batch(0))
    again = trained.taken_over()
    assert {rank.epoch for rank in again.status()} == {2}
    trained.step(0)


def test_a_rank_that_hangs_is_named_and_the_others_are_freed(
    ranks: Ranks, model: Path, gangs: Plan
) -> None:
    run = runs.run_config(model, cluster={"group_seconds": 3.0, "step_seconds": 1.0})
    trained = Trained(ranks, run, gangs, model)
    os.kill(trained.pid(1), signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded, match=r"ranks \[.*1.*\] did not finish step 0 within 1 s"):
        trained.engine.train_step(trained.batch(0))
    seats = [seat for seat in gangs.seats if seat != Seat(0, 0, 1)]
    until(lambda: not any(trained.crew.tell(s, "status").result(20).joined for s in seats))
    os.kill(trained.crew.tell(seats[0], "status").result(20).pid, signal.SIGCONT)
    os.kill(ranks.pid(1), signal.SIGCONT)
    assert not trained.taken_over().busy()
    trained.step(0)


def test_a_step_that_a_dead_driver_commanded_in_part_is_done_once(
    ranks: Ranks, run: RunConfig, replicas: Plan, model: Path
) -> None:
    """A driver died when it had told some ranks alone; the next one commands all."""
    trained = Trained(ranks, run, replicas, model)
    trained.step(0)
    told = replicas.seats.of_replica(1)
    batch = trained.batch(1)
    part = part_of(batch, run.train, 1, 2)
    answers = [trained.crew.tell(seat, "train_step", part) for seat in told]
    until(trained.engine.busy)
    trained.taken_over()  # in one epoch, in one step: nothing to settle
    trained.step(1)
    assert all(answer.result(20).step == 2 for answer in answers)
    assert {rank.epoch for rank in trained.engine.status()} == {1}


def test_a_snapshot_that_a_dead_driver_left_is_given_up(
    ranks: Ranks, run: RunConfig, replicas: Plan, model: Path, tmp_path: Path
) -> None:
    """The driver died when it had told some ranks alone."""
    trained = Trained(ranks, run, replicas, model)
    trained.step(0)
    for seat in replicas.seats.of_replica(0):
        trained.crew.tell(seat, "snapshot", 1).result(20)
    assert [rank.saving for rank in trained.engine.status()] == [1, 1, None, None]
    trained.taken_over()
    assert [rank.saving for rank in trained.engine.status()] == [None] * 4
    assert {rank.epoch for rank in trained.engine.status()} == {2}
    trained.step(1)
    assert load_manifest(trained.save(tmp_path / "saved", 2)).step == 2


def test_a_plan_for_another_model_is_refused_before_a_rank_reads_anything(
    ranks: Ranks, run: RunConfig, gangs: Plan, tmp_path: Path
) -> None:
    other = tiny.saved(tiny.mixtral(num_hidden_layers=4), tmp_path / "other")
    crew = ranks.crew(gangs.seats)
    with pytest.raises(PlanError, match="the plan was made for layers = 3, the model has 4"):
        TrainingEngine.train(crew, run, gangs, ModelSource(other), runs.LENGTH)
