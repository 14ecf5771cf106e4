"""A server in turns with a run: what it says, from which step, and what disturbs neither."""

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from actors.commands import Answering
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import SaveContext
from moe.config.answering import OnNewWeights
from moe.config.run import RunConfig
from moe.errors import RankLost
from moe.planning.plan.plan import Plan
from pipelines.serving.generation.generation import Generation
from pipelines.serving.living.terms import Conditions
from pipelines.serving.refusals import Unavailable
from pipelines.training.lending import Lending
from tests import runs, tiny
from tests.generated import behind, expected, prompts
from tests.healed import HealedRun
from tests.living import BLOCKS, LocalBoard, LocalServer, asked, saved
from tests.ranks import Ranks, pool, single_threaded

COUNT = 10


@pytest.fixture(scope="module")
def ranks() -> Any:
    with pool() as started:
        yield started


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


class Living:
    """A run, its board, and what its driver lends."""

    def __init__(
        self, ranks: Ranks, model: Path, *cuts: tuple[int, ...], replicas: int = 1
    ) -> None:
        self.run: RunConfig = runs.run_config(
            model,
            cluster={"group_seconds": 20.0},
            train={"learning_rate": 3e-2, "steps": 10**6},
            elastic={"copy_every": 1, "max_failures": 99, "hang_seconds": 20.0},
        )
        self.training = HealedRun.begun(ranks, self.plan(model, *cuts, replicas=replicas), self.run)
        self.board = LocalBoard()
        config = Checkpoint.open(model).config
        self.context = SaveContext(config, self.run, self.run.model.path, "data")
        self.lending = Lending(self.context)
        self.harm: Callable[[], None] = lambda: None

    def plan(self, model: Path, *cuts: tuple[int, ...], replicas: int = 1) -> Plan:
        config = Checkpoint.open(model).config
        return single_threaded(runs.repeated(runs.plan(config, *cuts), replicas))

    def lend(self, run: HealedRun, step: int) -> None:
        """Be between two steps, and do harm once."""
        harm, self.harm = self.harm, lambda: None
        harm()
        self.lending.between(run.engine, step, self.board.taken())

    def lend_for_ever(self) -> None:
        """Do no step, until something goes wrong."""
        while True:
            self.lend(self.training, self.training.engine.steps_done())

    def train(self, until: Callable[[], bool]) -> None:
        """Train step by step."""
        while not until():
            self.training.go(self.lend, self.training.engine.steps_done() + 1)

    def stand(self, answers: "Future[Any]") -> None:
        """Do no step until answers are there."""
        while not answers.done():
            self.lend(self.training, self.training.engine.steps_done())


def tokens(answers: Sequence[Generation]) -> list[list[int]]:
    return [each.tokens for each in answers]


def theirs(checkpoint: Path) -> list[list[int]]:
    return [expected(checkpoint, prompt, COUNT) for prompt in prompts()]


GANGS = ((1, 2), (2, 1), (3, 1))


@pytest.mark.parametrize("mode", ["continue", "recompute"])
@pytest.mark.parametrize(("cuts", "replicas"), [(((3,),), 1), (GANGS, 1), (((2, 1),), 2)])
def test_answers_of_one_step_are_those_of_its_checkpoint(
    mode: OnNewWeights,
    cuts: tuple[tuple[int, ...], ...],
    replicas: int,
    ranks: Ranks,
    model: Path,
    tmp_path: Path,
) -> None:
    living = Living(ranks, model, *cuts, replicas=replicas)
    server = LocalServer(living.board, Conditions(Answering(BLOCKS), 0.99, mode))
    for steps in (2, 3):
        living.train(lambda steps=steps: living.training.engine.steps_done() == steps)
        with asked(server, prompts(), COUNT) as answers:
            living.stand(answers)
        found = answers.result()
        assert {each.steps for each in found} == {(steps, steps)}
        checkpoint = saved(living.training.engine, living.run, steps, tmp_path / str(steps))
        assert tokens(found) == theirs(checkpoint)


TIE = 1e-4
"""Which step draws which token is chance, and so is a step at which two tokens are as good."""

FEW = 0.02


@pytest.mark.parametrize("mode", ["continue", "recompute"])
def test_training_does_not_notice_and_every_token_is_of_one_step(
    mode: OnNewWeights, ranks: Ranks, model: Path, tmp_path: Path
) -> None:
    cuts = (2, 1), (2, 1), (3, 1)
    alone = Living(ranks, model, *cuts)
    alone.train(lambda: alone.training.engine.steps_done() == 2)
    plain = saved(alone.training.engine, alone.run, 2, tmp_path / "plain")
    living = Living(ranks, model, *cuts)
    server = LocalServer(living.board, Conditions(Answering(BLOCKS), FEW, mode))
    saves: dict[int, Path] = {}

    def done(answers: "Future[Any]") -> bool:
        step = living.training.engine.steps_done()
        saves[step] = saved(living.training.engine, living.run, step, tmp_path / str(step))
        return answers.done() and step > 2

    with asked(server, prompts()[:2], COUNT) as answers:
        living.train(lambda: done(answers))
    assert living.training.losses.items() >= alone.training.losses.items()
    for file in (file for file in plain.rglob("*.safetensors")):
        assert file.read_bytes() == (saves[2] / file.relative_to(plain)).read_bytes()
    for number, answer in enumerate(answers.result()):
        heard = server.heard[number]
        assert answer.steps == (answer.steps[0], heard[-1])
        assert len(heard) == len(answer.tokens) == COUNT
        assert heard == sorted(heard)
        assert heard[0] < heard[-1]
        if mode == "recompute":
            for place, step in enumerate(heard):
                before = (*answer.job.prompt, *answer.tokens[:place])
                assert behind(saves[step], before, answer.tokens[place]) < TIE


def test_a_server_that_dies_in_a_turn_costs_training_nothing_and_the_next_is_let_in(
    ranks: Ranks, model: Path
) -> None:
    living = Living(ranks, model, (3,))
    server = LocalServer(living.board)
    with asked(server, prompts(), COUNT) as answers:
        while not server.heard:
            living.lend(living.training, 0)
        server.desks[0].end()
        living.stand(answers)
    assert len(server.desks) == 2
    assert tokens(answers.result()) == theirs(model)
    living.train(lambda: living.training.engine.steps_done() == 1)
    assert living.training.healed == []


def test_a_lost_rank_and_another_driver_cost_no_answer(ranks: Ranks, model: Path) -> None:
    living = Living(ranks, model, (2, 1), (2, 1), (3, 1))
    living.train(lambda: living.training.engine.steps_done() == 1)
    server = LocalServer(living.board, Conditions(Answering(BLOCKS), 5 * FEW))
    with asked(server, prompts(), COUNT) as answers:
        living.train(lambda: bool(server.heard))
        healed_at = living.training.engine.steps_done()
        living.harm = lambda: os.kill(ranks.pid(2), signal.SIGKILL)
        living.train(lambda: bool(living.training.healed))
        living.lending = Lending(living.context)  # as a driver that takes over
        living.train(answers.done)
    assert len(server.desks) == 1
    assert len(living.training.healed) == 1
    for answer in answers.result():
        assert len(answer.tokens) == COUNT
        assert answer.steps is not None
        assert answer.steps[1] >= healed_at


def test_answers_go_on_under_another_plan(ranks: Ranks, model: Path) -> None:
    living = Living(ranks, model, (3,))
    server = LocalServer(living.board, Conditions(Answering(BLOCKS), 5 * FEW))
    plans = [living.plan(model, (1, 1, 1)), living.plan(model, (3,), replicas=2)]
    with asked(server, prompts(), 3 * COUNT) as answers:
        for plan in plans:
            heard = sum(map(len, server.heard.values()))
            living.train(lambda heard=heard: sum(map(len, server.heard.values())) > heard + 5)
            living.training.wish(plan)
            assert living.training.engine.plan == plan
        living.train(answers.done)
    assert all(len(each.tokens) == 3 * COUNT for each in answers.result())


def test_a_run_that_is_over_is_said(ranks: Ranks, model: Path) -> None:
    living = Living(ranks, model, (3,))
    server = LocalServer(living.board, Conditions(Answering(BLOCKS), FEW))
    with asked(server, prompts(), 200) as answers:
        living.train(lambda: bool(server.heard))
        living.board.there = False
        with pytest.raises(Unavailable, match="the run is over"):
            answers.result()


def test_who_is_not_let_in_is_told_why(ranks: Ranks, model: Path) -> None:
    living = Living(ranks, model, (3,))
    much = LocalServer(living.board, Conditions(Answering(10**9), FEW))
    with asked(much, prompts(), COUNT) as answers:
        while not answers.done():
            living.lend(living.training, 0)
        with pytest.raises(RankLost, match=r"tokens take .* on rank 0, which has .* fewer by --ca"):
            answers.result()
    slow = Conditions(Answering(BLOCKS), 0.05)  # it is not done before the second comes
    first, second = LocalServer(living.board, slow), LocalServer(living.board)
    with asked(first, prompts(), COUNT) as one:
        while not first.heard:
            living.lend(living.training, 0)
        with asked(second, prompts(), COUNT) as other:
            living.stand(other)
            with pytest.raises(RankLost, match="answers through another server already"):
                other.result()
        living.stand(one)
    assert tokens(one.result()) == theirs(model)
    living.train(lambda: living.training.engine.steps_done() == 1)


def test_what_a_server_asks_for_does_not_end_a_run(ranks: Ranks, model: Path) -> None:
    """Memory is used up in a batch: the ranks are mended, and asked no more."""
    living = Living(ranks, model, (2, 1))
    living.train(lambda: living.training.engine.steps_done() == 1)
    server = LocalServer(living.board, Conditions(Answering(BLOCKS), 0.5))
    with asked(server, prompts(), 200) as answers:
        living.train(lambda: bool(server.heard))
        seat = living.training.crew.seats.seat(0)
        living.training.crew.tell(seat, "fail_once", RuntimeError, "").result()
        with pytest.raises(RankLost, match=r"an answer cost the run its ranks: .* during batch"):
            living.lend_for_ever()
        living.training.mend()
        living.train(answers.done)
        with pytest.raises(Unavailable, match="an answer cost the run its ranks"):
            answers.result()
    steps = living.training.engine.steps_done() + 2
    living.train(lambda: living.training.engine.steps_done() == steps)
    assert len(living.training.healed) == 1
