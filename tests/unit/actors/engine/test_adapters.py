"""Adapters on the ranks of every kind of plan: mixed in batches, after a loss, after a change."""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.commands import AdapterSource, Answering
from actors.deadlines import Deadlines
from actors.engine.serving import ServingEngine
from moe.checkpoint.adapters.files import AdapterFiles
from moe.checkpoint.reader import Checkpoint
from moe.config.sampling import Sampling
from moe.errors import CheckpointError, RankDied
from pipelines.serving.batching.batcher import Batcher, Room
from pipelines.serving.batching.sequence import Wanted
from tests import lora, runs, tiny
from tests.ranks import Ranks, single_threaded

BLOCKS, COUNT = 32, 8
Adapters = dict[int, Path | None]
MODULES = {
    "llama": {"target_modules": "all-linear"},
    "mixtral": {"target_modules": [*lora.ATTENTION, "w1", "w2", "w3", "gate"]},
    "qwen2_moe": {"target_modules": "all-linear", "target_parameters": [*lora.STACKED]},
}


@pytest.fixture(scope="module", params=MODULES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Adapters]:
    """A model, and two adapters of it."""
    path, family = tmp_path_factory.mktemp(request.param), request.param
    wide = {"shared_expert_intermediate_size": 40} if family == "qwen2_moe" else {}
    model = tiny.saved(tiny.model(family, **wide), path / "model")
    first = lora.adapter(model, path / "first", seed=1, **MODULES[family])
    second = lora.adapter(model, path / "second", seed=2, r=3, target_modules=["q_proj", "o_proj"])
    return model, {0: None, 1: first, 2: second}


def source(model: Path, number: int, directory: Path) -> AdapterSource:
    files = AdapterFiles(directory, Checkpoint.open(model).config)
    return AdapterSource(number, directory, files.digest())


def started(
    ranks: Ranks, model: Path, adapters: Adapters, cuts: tuple[tuple[int, ...], ...], kind: str
) -> ServingEngine:
    config = Checkpoint.open(model).config
    plan = single_threaded(runs.plan(config, *(cuts if config.moe else cuts[:2])))
    how = Answering(BLOCKS, kind)  # type: ignore[arg-type]
    crew = ranks.crew(plan.seats)
    engine = ServingEngine.serve(crew, "serve", plan, model, Deadlines(group=20.0), how)
    adopt(engine, model, adapters)
    return engine


def adopt(engine: ServingEngine, model: Path, adapters: Adapters) -> None:
    for number, directory in adapters.items():
        if directory is not None:
            engine.adopted(engine.adopt(source(model, number, directory)))


def wanted() -> list[Wanted]:
    prompts = [tuple(tiny.tokens(97, 1, n, seed=n)[0].tolist()) for n in (7, 33, 1, 20)]
    return [
        Wanted(prompt, COUNT, Sampling(), None, None, n % 3, n % 3)
        for n, prompt in enumerate([*prompts, *prompts])
    ]


def generated(
    engine: ServingEngine, wishes: Sequence[Wanted], depth: int, strike: Ranks | None = None
) -> list[list[int]]:
    """Generate all together; with ``strike``, rank 0 is killed on the way and not mended."""
    batcher, flights = Batcher(Room(BLOCKS, 8, None, depth, ahead=depth == 2)), []
    texts: dict[int, list[int]] = {batcher.add(wish): [] for wish in wishes}
    rounds = 0
    while batcher.waiting or batcher.running:
        while len(flights) < depth and (batch := batcher.next(40)) is not None:
            flights.append(engine.begin(batch))
        rounds += 1
        if rounds == 5 and strike is not None:
            os.kill(strike.pid(0), signal.SIGKILL)
        flight = flights.pop(0)
        for outcome in batcher.take(flight.batch, engine.finish(flight)):
            if outcome.token is not None:
                texts[outcome.number].append(outcome.token.token)
            if len(texts[outcome.number]) == COUNT:
                batcher.end(outcome.number)
    return list(texts.values())


def expected(model: Path, adapters: Adapters, wishes: Sequence[Wanted]) -> list[list[int]]:
    theirs = {number: lora.Adapted(model, directory) for number, directory in adapters.items()}
    return [theirs[wish.adapter].continued(wish.prompt, COUNT) for wish in wishes]


@pytest.mark.parametrize(
    "cuts", [((3,),), ((3,), (1, 1, 1), (2, 1, 1)), ((1, 2), (2, 1), (1, 3))], ids=str
)
def test_batches_equal_peft(
    cuts: tuple[tuple[int, ...], ...], made: tuple[Path, Adapters], ranks: Ranks
) -> None:
    model, adapters = made
    engine = started(ranks, model, adapters, cuts, "fp32")
    depth = 2 if len(cuts[0]) == 1 else 1
    assert generated(engine, wanted(), depth) == expected(model, adapters, wanted())


@pytest.mark.parametrize("made", ["mixtral"], indirect=True)
def test_a_rank_that_takes_the_place_of_a_lost_one(
    made: tuple[Path, Adapters], ranks: Ranks
) -> None:
    model, adapters = made
    engine = started(ranks, model, adapters, ((3,), (2, 1), (1, 3)), "fp32")
    with pytest.raises(RankDied):
        generated(engine, wanted(), 2, ranks)
    assert engine.mend().replaced == (0,)
    adopt(engine, model, adapters)
    assert generated(engine, wanted(), 2) == expected(model, adapters, wanted())


@pytest.mark.parametrize("made", ["mixtral"], indirect=True)
@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_an_answer_does_not_depend_on_the_adapters_beside_it(
    kind: str, made: tuple[Path, Adapters], ranks: Ranks
) -> None:
    model, adapters = made
    engine = started(ranks, model, adapters, ((3,), (2, 1), (3, 1)), kind)
    together = generated(engine, wanted(), 2)
    for wish, text in list(zip(wanted(), together, strict=True))[:4]:
        assert generated(engine, [wish], 2) == [text]


@pytest.mark.parametrize("made", ["mixtral"], indirect=True)
def test_an_adapter_that_changed_is_refused_and_costs_nothing(
    made: tuple[Path, Adapters], ranks: Ranks, tmp_path: Path
) -> None:
    model, adapters = made
    engine = started(ranks, model, {}, ((3,), (2, 1), (3, 1)), "fp32")
    assert adapters[1] is not None
    assert adapters[2] is not None
    mine = Path(shutil.copytree(adapters[1], tmp_path / "mine"))
    before = source(model, 1, mine)
    shutil.copytree(adapters[2], mine, dirs_exist_ok=True)
    adoption = engine.adopt(before)
    with pytest.raises(CheckpointError, match="has changed since it was loaded"):
        engine.adopted(adoption)
    assert engine.healthy()
    adopt(engine, model, {2: mine})
    wishes = [wish for wish in wanted() if wish.adapter != 1]
    theirs = {0: None, 2: mine}
    assert generated(engine, wishes, 2) == expected(model, theirs, wishes)
    engine.drop(2)
    plain = [Wanted(wish.prompt, COUNT, Sampling(), None, None, 2, 3) for wish in wishes]
    bare = [Wanted(wish.prompt, COUNT, Sampling()) for wish in wishes]
    assert generated(engine, plain, 2) == expected(model, {0: None}, bare)
