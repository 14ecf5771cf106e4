"""A scheduler over a gang of unequal ranks whose experts are used unevenly."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.commands import Answering
from actors.deadlines import Deadlines
from actors.engine.serving import ServingEngine
from moe.checkpoint.reader import Checkpoint
from moe.config.sampling import Sampling
from moe.errors import CheckpointError, OutOfMemory, RankLost
from moe.planning.plan.plan import Plan
from pipelines.serving.batching.batcher import Room
from pipelines.serving.experts import imbalances, rebalance
from pipelines.serving.generation.generation import Generation, Job
from pipelines.serving.generation.rebalancing import Rebalance, Rebalancing
from pipelines.serving.generation.scheduler import Scheduler
from pipelines.serving.limits import Limits
from pipelines.serving.telemetry import Telemetry
from pipelines.serving.text.detokenize import Detokenizer
from tests import runs, tiny
from tests.ranks import Ranks, pool, single_threaded

BLOCKS = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with pool() as started:
        yield started


def generation(prompt: tuple[int, ...]) -> Generation:
    detokenizer = Detokenizer(lambda tokens: "".join(f"{t} " for t in tokens), lambda _: False)
    return Generation(Job(prompt, 12, Sampling()), detokenizer)


async def said(scheduler: Scheduler) -> list[str]:
    streams = scheduler.submit([generation((token,) * 9) for token in (5, 6, 7)])
    return ["".join([delta.text async for delta in stream]) for stream in streams]


def test_answers_stay_and_the_busiest_rank_gets_less(model: Path, ranks: Ranks) -> None:
    plan = single_threaded(runs.plan(Checkpoint.open(model).config, (3,), (2, 1), (1, 3)))
    crew, how = ranks.crew(plan.seats), Answering(BLOCKS)
    engine = ServingEngine.serve(crew, "serve", plan, model, Deadlines(group=20.0), how)
    telemetry = Telemetry("tiny")
    room = Room(BLOCKS, 4, None, 2, ahead=True)
    scheduler = Scheduler(
        lambda: engine,
        room,
        replace(Limits(), idle_seconds=0.05),
        rebalance=rebalance(0.02, 0.05, telemetry),
    )

    async def main() -> list[list[str]]:
        texts = [await said(scheduler)]
        for _ in range(40):
            texts.append(await said(scheduler))
            if engine.plan != plan:
                return [*texts, await said(scheduler)]
        raise AssertionError("no expert has moved")

    try:
        texts = asyncio.run(main())
    finally:
        scheduler.close(20.0)
    assert texts == [texts[0]] * len(texts)
    found = {
        (sample.name, sample.labels.get("layer"), sample.labels.get("expert")): sample.value
        for family in text_string_to_metric_families(telemetry.text().decode())
        for sample in family.samples
    }
    assert found["raymoe:expert_moves_total", None, None] >= 1
    for layer in range(3):
        load = tuple(
            int(found["raymoe:expert_tokens_total", str(layer), str(expert)]) for expert in range(4)
        )
        assert sum(load) > 0
        after = imbalances(engine.plan, {layer: load})[layer]
        assert 1 <= after <= imbalances(plan, {layer: load})[layer]


@dataclass
class Answers:
    over: bool = False


class Gang:
    """Answers when the test says so."""

    plan = "old"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.told: list[Any] = []

    def ask_loads(self) -> Answers:
        self.told.append(Answers())
        return self.told[-1]

    def loads(self, asked: Answers) -> dict[int, tuple[int, ...]]:
        assert asked.over
        return {0: (3, 1)}

    def fetch(self, plan: Plan) -> Answers:
        return self.ask_loads()

    def place(self, move: Answers) -> None:
        assert move.over
        if self.error is not None:
            raise self.error
        self.plan = "new"


def turned(gang: Gang, better: str | None = "new") -> Rebalancing:
    """Return what has come to the point where the ranks have the experts."""
    moving = Rebalancing(Rebalance(10.0, lambda plan, loads: better))  # type: ignore[arg-type, return-value]
    for now in (100.0, 109.0):
        moving.turn(gang, now)  # type: ignore[arg-type]
        assert not gang.told
    for now in (110.0, 111.0):
        moving.turn(gang, now)  # type: ignore[arg-type]
        assert len(gang.told) == 1
    gang.told[0].over = True
    moving.turn(gang, 112.0)  # type: ignore[arg-type]
    return moving


def test_nothing_waits() -> None:
    gang = Gang()
    moving = turned(gang)
    assert moving.moving
    for now in (113.0, 130.0):
        moving.turn(gang, now)  # type: ignore[arg-type]
        assert gang.plan == "old"
    gang.told[1].over = True
    moving.turn(gang, 131.0)  # type: ignore[arg-type]
    assert (gang.plan, moving.moving) == ("new", False)
    moving.turn(gang, 132.0)  # type: ignore[arg-type]
    assert len(gang.told) == 3


def test_what_gains_too_little_moves_nothing() -> None:
    gang = Gang()
    assert not turned(gang, None).moving
    assert len(gang.told) == 1


@pytest.mark.parametrize(
    ("error", "again"), [(CheckpointError("gone"), True), (OutOfMemory("full"), False)]
)
def test_experts_that_cannot_come_stay(error: Exception, again: bool) -> None:
    gang = Gang(error)
    moving = turned(gang)
    gang.told[1].over = True
    for now in (131.0, 132.0):
        moving.turn(gang, now)  # type: ignore[arg-type]
    assert gang.plan == "old"
    assert (len(gang.told) == 3) is again


def test_a_loss_is_told_and_all_begins_anew() -> None:
    gang = Gang(RankLost("rank 1 died"))
    moving = turned(gang)
    gang.told[1].over = True
    with pytest.raises(RankLost):
        moving.turn(gang, 131.0)  # type: ignore[arg-type]
    moving.restart()
    assert not moving.moving
