"""Ranks that train answer between two steps: what they say, and that training does not notice."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.commands import Answering, Batch, BatchOutput, Drawing, Feed
from actors.decode.rank_decoder import RankDecoder
from actors.engine.lending import Lent
from actors.engine.passes import Flight
from actors.engine.training import TrainingEngine
from actors.state.sources import ModelSource
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.config.sampling import Sampling
from moe.errors import CheckpointError, RankLost
from moe.nn.build import build
from moe.nn.exchange import Alone
from moe.planning.plan.plan import Plan
from pipelines.serving.batching.batcher import Room
from pipelines.serving.batching.sequence import Wanted
from tests import runs, tiny
from tests.generated import expected, generated, prompts
from tests.living import saved
from tests.ranks import Ranks, single_threaded

BLOCKS = 24
HOW = Answering(BLOCKS)
COUNT = 8


class Turn:
    """A server's turn after a step."""

    def __init__(self, lent: Lent, step: int) -> None:
        self.lent = lent
        self.step = step

    def begin(self, batch: Batch) -> Flight:
        return self.lent.begin(replace(batch, step=self.step))

    def finish(self, flight: Flight) -> BatchOutput:
        return self.lent.finish(flight)


class Run:
    """A run over processes."""

    def __init__(self, ranks: Ranks, model: Path, plan: Plan, **train: Any) -> None:
        self.run: RunConfig = runs.run_config(model, cluster={"group_seconds": 20.0}, train=train)
        self.plan = single_threaded(plan)
        self.config = Checkpoint.open(model).config
        self.crew = ranks.crew(plan.seats)
        source = ModelSource(model)
        self.engine = TrainingEngine.train(self.crew, self.run, self.plan, source, runs.LENGTH)
        self.losses: list[float] = []

    def step(self) -> int:
        done = len(self.losses)
        report = self.engine.train_step(runs.batch(self.config, self.run, done))
        self.losses.append(report.loss)
        return report.step

    def say(self, replica: int = 0, how: Answering = HOW) -> list[list[int]]:
        """Return what the ranks of a replica say to some prompts, as the weights are now."""
        lent = self.engine.lent(replica)
        lent.open(how)
        room = Room(BLOCKS, running=4).over(lent.stages)
        wanted = [Wanted(prompt, COUNT, Sampling()) for prompt in prompts()]
        return generated(Turn(lent, len(self.losses)), room, wanted)

    def save(self, to: Path) -> Path:
        return saved(self.engine, self.run, len(self.losses), to)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {
        "mixtral": tiny.mixtral(),
        "qwen2": tiny.model("qwen2"),
        "qwen2_moe": tiny.model("qwen2_moe"),
    }
    return {family: tiny.saved(model, folder / family) for family, model in made.items()}


def said_by_transformers(checkpoint: Path) -> list[list[int]]:
    return [expected(checkpoint, prompt, COUNT) for prompt in prompts()]


GANGS = ((1, 2), (2, 1), (3, 1))


@pytest.mark.parametrize(
    ("family", "cuts", "replicas"),
    [
        ("mixtral", ((3,),), 1),
        ("mixtral", GANGS, 1),
        ("qwen2", ((3,), (2, 1)), 1),
        ("qwen2_moe", ((2, 1),), 2),
    ],
)
def test_answers_are_those_of_the_checkpoint_of_the_step(
    family: str,
    cuts: tuple[tuple[int, ...], ...],
    replicas: int,
    ranks: Ranks,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    model = models[family]
    plan = runs.repeated(runs.plan(Checkpoint.open(model).config, *cuts), replicas)
    run = Run(ranks, model, plan, learning_rate=3e-2)
    before = run.say()
    assert before == said_by_transformers(model)
    for _ in range(2):
        run.step()
    found = run.say(replica=replicas - 1)
    assert found == said_by_transformers(run.save(tmp_path / "step-2"))
    assert found != before
    run.step()
    assert run.say() == said_by_transformers(run.save(tmp_path / "step-3"))


def test_bfloat16_answers_as_it_trains(
    ranks: Ranks, models: dict[str, Path], tmp_path: Path
) -> None:
    """The oracle is one process with the same narrow weights."""
    plan = runs.plan(Checkpoint.open(models["mixtral"]).config, (2, 1))
    run = Run(ranks, models["mixtral"], plan, precision="bf16", learning_rate=3e-2)
    run.step()
    checkpoint = Checkpoint.open(run.save(tmp_path / "saved"))
    decoder = build(checkpoint.config, checkpoint.read, dtype=torch.bfloat16)
    alone = RankDecoder(decoder, [0], 0, Alone(), own=True)
    alone.prepare(HOW)
    wanted = [Wanted(prompt, COUNT, Sampling()) for prompt in prompts()]
    expected = generated(InProcess(alone), Room(BLOCKS, 4, depth=2), wanted)
    assert run.say() == expected


class InProcess:
    """A decoder of this process as an engine."""

    def __init__(self, rank: RankDecoder) -> None:
        self.rank = rank

    def begin(self, batch: Batch) -> Flight:
        return Flight(batch, {})

    def finish(self, flight: Flight) -> BatchOutput | None:
        return self.rank.infer(flight.batch)


def test_a_batch_for_another_step_is_refused(ranks: Ranks, models: dict[str, Path]) -> None:
    run = Run(ranks, models["mixtral"], runs.plan(Checkpoint.open(models["mixtral"]).config, (3,)))
    run.step()
    lent = run.engine.lent(0)
    lent.open(HOW)
    turn = Turn(lent, 0)
    with pytest.raises(RankLost, match=r"rank 0 has done 1 steps, batch 1 after 0 was asked for"):
        turn.finish(turn.begin(FIRST))


def test_logits_that_are_no_numbers_fail_a_batch_and_no_rank(
    ranks: Ranks, models: dict[str, Path], tmp_path: Path
) -> None:
    broken = shutil.copytree(models["mixtral"], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    run = Run(ranks, broken, runs.plan(Checkpoint.open(broken).config, *GANGS))
    lent = run.engine.lent(0)
    lent.open(HOW)
    turn = Turn(lent, 0)
    with pytest.raises(CheckpointError, match="the logits at position 1 are not numbers"):
        turn.finish(turn.begin(FIRST))
    assert run.engine.sound()
    lent.close()
    run.engine.steps_done()
    with pytest.raises(RankLost, match="before it was prepared for answering"):
        turn.finish(turn.begin(FIRST))


FIRST = Batch(1, (Feed(1, (5,), 0, (0,), draws=True),), {1: Drawing(Sampling(), (5,))})
