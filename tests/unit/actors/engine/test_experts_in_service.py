"""Experts change their ranks while a gang answers: before, meanwhile and after it says the same."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.commands import AdapterSource, Answering
from actors.deadlines import Deadlines
from actors.engine.serving import ServingEngine
from moe.checkpoint.adapters.files import AdapterFiles
from moe.checkpoint.reader import Checkpoint
from moe.config.sampling import Sampling
from moe.errors import CheckpointError
from moe.planning.plan.plan import LayerExperts, Plan
from pipelines.planning.stage_experts import improved, speeds_of, with_experts
from pipelines.serving.batching.batcher import Batcher, Room
from pipelines.serving.batching.sequence import Wanted
from tests import lora, runs, tiny
from tests.ranks import Ranks, single_threaded

BLOCKS, COUNT = 32, 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model with experts, and an adapter of all of them."""
    path = tmp_path_factory.mktemp("made")
    model = tiny.saved(tiny.mixtral(), path / "model")
    return model, lora.adapter(model, path / "one", target_modules=["q_proj", "w1", "w2", "w3"])


def started(
    ranks: Ranks, made: tuple[Path, Path], cuts: tuple[tuple[int, ...], ...], kind: str
) -> ServingEngine:
    """Return a gang that answers, with the adapter under number 1."""
    model, _ = made
    config = Checkpoint.open(model).config
    plan = single_threaded(runs.plan(config, *cuts))
    how = Answering(BLOCKS, kind)  # type: ignore[arg-type]
    crew = ranks.crew(plan.seats)
    engine = ServingEngine.serve(crew, "serve", plan, model, Deadlines(group=20.0), how)
    adopt(engine, made)
    return engine


def adopt(engine: ServingEngine, made: tuple[Path, Path]) -> None:
    files = AdapterFiles(made[1], Checkpoint.open(made[0]).config)
    engine.adopted(engine.adopt(AdapterSource(1, made[1], files.digest())))


def generated(engine: ServingEngine) -> list[list[int]]:
    """Return what follows prompts of few different tokens, of the model and of the adapter."""
    stages = len(engine.plan.stages)
    batcher = Batcher(Room(BLOCKS, 8, None, max(stages, 2), ahead=stages == 1))
    prompts = [(5,) * 20, (5, 6) * 9, (7,) * 3, (5,) * 7]
    wishes = [Wanted(p, COUNT, Sampling(), None, None, n % 2, n % 2) for n, p in enumerate(prompts)]
    texts: dict[int, list[int]] = {batcher.add(wish): [] for wish in wishes}
    while batcher.waiting or batcher.running:
        batch = batcher.next(40)
        assert batch is not None
        for outcome in batcher.take(batch, engine.finish(engine.begin(batch))):
            if outcome.token is not None:
                texts[outcome.number].append(outcome.token.token)
            if len(texts[outcome.number]) == COUNT:
                batcher.end(outcome.number)
    return list(texts.values())


def loads(engine: ServingEngine) -> dict[int, tuple[int, ...]]:
    return dict(engine.loads(engine.ask_loads()))


def better(engine: ServingEngine) -> Plan:
    found = loads(engine)
    load = [found[layer] for layer in sorted(found)]
    stages = improved(
        engine.plan, sorted(found), np.asarray(load, float), 0.01, speeds_of(engine.plan, None)
    )
    return with_experts(engine.plan, stages)


def busiest(engine: ServingEngine, found: dict[int, tuple[int, ...]]) -> list[int]:
    """Return by layer the load of the rank with most, under the plan of now."""
    plan, most = engine.plan, []
    for layer, load in sorted(found.items()):
        shares = [plan.share(seat) for seat in plan.seats if plan.share(seat).holds(layer)]
        most.append(max(sum(load[expert] for expert in own.experts_of(layer)) for own in shares))
    return most


@pytest.mark.parametrize("kind", ["fp32", "int8"])
@pytest.mark.parametrize("cuts", [((3,), (2, 1), (1, 3)), ((1, 2), (2, 1), (1, 3))], ids=str)
def test_moves_by_load(
    cuts: tuple[tuple[int, ...], ...], kind: str, made: tuple[Path, Path], ranks: Ranks
) -> None:
    engine = started(ranks, made, cuts, kind)
    loads(engine)
    before = generated(engine)
    found = loads(engine)
    rows = sum(map(len, [(5,) * 20, (5, 6) * 9, (7,) * 3, (5,) * 7])) + 4 * (COUNT - 1)
    assert {layer: sum(load) for layer, load in found.items()} == dict.fromkeys(range(3), 2 * rows)
    assert not any(map(sum, loads(engine).values()))
    generated(engine)
    plan = better(engine)
    assert plan != engine.plan
    old = busiest(engine, found)
    move = engine.fetch(plan)
    assert generated(engine) == before
    engine.place(move)
    assert engine.plan == plan
    assert generated(engine) == before
    now = busiest(engine, found)
    assert all(one <= other for one, other in zip(now, old, strict=True))
    assert sum(now) < sum(old)
    assert engine.healthy()


def test_a_rank_that_is_lost_later_is_built_of_the_new_plan(
    made: tuple[Path, Path], ranks: Ranks
) -> None:
    engine = started(ranks, made, ((3,), (2, 1), (3, 1)), "fp32")
    before = generated(engine)
    other = LayerExperts(1, ((1, 2, 3), (0,)))
    (stage,) = engine.plan.stages
    plan = replace(engine.plan, stages=(replace(stage, expert_layout=(other,)),))
    engine.place(engine.fetch(plan))
    assert generated(engine) == before
    os.kill(ranks.pid(1), signal.SIGKILL)
    while engine.healthy():
        pass
    assert engine.mend().replaced == (1,)
    adopt(engine, made)
    assert generated(engine) == before
    assert [status.seat.member for status in engine.statuses() if status.seat] == [0, 1]


@pytest.mark.parametrize("gone", [True, False])
def test_what_cannot_be_read_leaves_all_as_it_is(
    gone: bool, made: tuple[Path, Path], ranks: Ranks, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(made[1], tmp_path / "mine"))
    engine = started(ranks, (made[0], mine), ((3,), (2, 1), (3, 1)), "fp32")
    before, old = generated(engine), engine.plan
    if gone:
        shutil.rmtree(mine)
    else:
        lora.adapter(made[0], mine, seed=7, target_modules=["q_proj", "w1", "w2", "w3"])
    (stage,) = old.stages
    other = LayerExperts(0, ((0, 1, 2), (3,))), LayerExperts(2, ((0, 1, 3), (2,)))
    plan = replace(old, stages=(replace(stage, expert_layout=other),))
    with pytest.raises(CheckpointError, match="is no adapter" if gone else "has changed since"):
        engine.place(engine.fetch(plan))
    assert engine.plan == old
    assert generated(engine) == before
    assert engine.healthy()
