"""A share multiplies by the rules that its run recorded, and learns whether its gang is unlike."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.commands import BuildCommand
from actors.deadlines import Deadlines
from actors.engine.serving import ServingEngine
from actors.rank.rank import Rank
from actors.state.sources import CheckpointSource, ModelSource, Source
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import About, SaveContext, complete
from moe.config.products import Products, always
from moe.nn.processor import processor
from moe.nn.product import chosen, in_use, use
from moe.planning.plan.file import to_dict
from tests import batches, runs, tiny
from tests.alone import ALONE, join, rank_of_this_process
from tests.ranks import SECONDS, Ranks, Team

MKL = always(processor(), "mkl")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path / "model")


@pytest.fixture(autouse=True)
def rules() -> Iterator[None]:
    before = in_use()
    yield
    use(before)


def started(model: Path, source: Source) -> Rank:
    rank = rank_of_this_process()
    plan = runs.plan(Checkpoint.open(model).config, (3,))
    rank.build(BuildCommand(plan, ALONE.seat(0), runs.LENGTH, runs.run_config(model)), source)
    join(rank, 1)
    return rank


def saved(rank: Rank, model: Path, to: Path, products: tuple[Products, ...] | None = None) -> Path:
    """Write a checkpoint after the first step, with other rules in its record if given."""
    to.mkdir()
    rank.snapshot(1)
    written = rank.write(to, 1)
    if products is not None:
        written = replace(written, products=products)
    config = Checkpoint.open(model).config
    context = SaveContext(config, runs.run_config(model), model, "data")
    complete(to, About(context, to_dict(runs.plan(config, (3,))), 1), [written])
    return to


def test_a_resumed_run_keeps_the_recorded_rules_and_computes_the_same_bits(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    first = started(model, ModelSource(model))
    use(MKL)
    first.train_step(runs.batch(config, run, 0))
    at = saved(first, model, tmp_path / "saved")
    before = first.train_step(runs.batch(config, run, 1))
    first.abort()
    assert load_manifest(at).products == {processor(): MKL}

    use(chosen({}))
    resumed = started(model, CheckpointSource(at))
    assert in_use() == MKL
    after = resumed.train_step(runs.batch(config, run, 1))
    resumed.abort()
    assert (after.loss, after.gradient_norm) == (before.loss, before.gradient_norm)
    assert not caplog.records


def test_a_run_that_resumes_on_another_processor_says_that_it_differs(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    rank = started(model, ModelSource(model))
    assert in_use() == chosen({})
    rank.train_step(runs.batch(config, run, 0))
    at = saved(rank, model, tmp_path / "saved", (always("elsewhere", "mkl"),))
    rank.abort()
    use(MKL)
    with caplog.at_level(logging.WARNING):
        started(model, CheckpointSource(at)).abort()
    assert in_use() == chosen({})
    assert "the steps so far multiplied on elsewhere" in caplog.text


@pytest.mark.parametrize(("threads", "unlike"), [((1, 1), False), ((1, 2), True)])
def test_members_whose_devices_round_otherwise_take_the_leader_s_choices(
    threads: tuple[int, int], unlike: bool, ranks: Ranks, tmp_path: Path
) -> None:
    """Each tells the gang what its device is; plans need not know the names of devices."""
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    made = runs.plan(Checkpoint.open(model).config, (3,), (1, 2), (2, 2))
    stage = made.stages[0]
    members = zip(stage.ranks, threads, strict=True)
    held = tuple(replace(rank, threads=count) for rank, count in members)
    plan = replace(made, stages=(replace(stage, ranks=held),))
    crew = ranks.crew(plan.seats)
    ServingEngine.serve(crew, "test", plan, model, Deadlines(group=SECONDS), batches.HOW)
    assert Team(crew, plan, None).all("unlike") == [unlike, unlike]
