"""A rank that nobody drives ends; one whose driver lives does not, whatever it waits for."""

import time
from pathlib import Path

import psutil
import pytest

from actors.crew.process import RankProcess
from actors.engine.presence import present
from actors.rank.silence import ORPHANED, Silence
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.surgery.initialise import initialise
from tests import runs
from tests.crews import soon
from tests.healed import HealedRun
from tests.ranks import pool, single_threaded
from tests.routed import routed

LIMIT = 0.4
"""Long enough for a loaded machine to ask four times within it."""


class Helpless:
    """What cannot give back what it holds, as where its cluster is gone."""

    def __init__(self, number: int) -> None:
        self._silence = Silence(self._fail)

    def limit(self, seconds: float) -> None:
        self._silence.limit(seconds)

    def _fail(self, seconds: float) -> None:
        raise OSError("there is no cluster")


def run_of(model: Path, orphan_seconds: float) -> RunConfig:
    elastic = {"orphan_seconds": orphan_seconds, "hang_seconds": orphan_seconds / 2 or 1.0}
    return runs.run_config(model, elastic=elastic, cluster={"group_seconds": 20.0})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("silence") / "model"
    initialise(routed(2), path, seed=0)
    return path


def test_who_hears_nothing_gives_up_again_and_again_and_who_waits_for_ever_never() -> None:
    given_up: list[float] = []
    silence = Silence(given_up.append)
    assert silence.seconds is None
    silence.limit(LIMIT)
    for _ in range(10):
        time.sleep(LIMIT / 5)
        silence.heard()
    assert not given_up
    soon(lambda: len(given_up) > 1)
    assert given_up[0] == LIMIT
    assert silence.seconds is not None
    assert silence.seconds > LIMIT
    silence.limit(0.0)
    time.sleep(LIMIT / 2)
    count = len(given_up)
    time.sleep(LIMIT)
    assert len(given_up) == count


def test_ranks_outlive_a_driver_that_waits_and_end_without_one(model: Path) -> None:
    plan = single_threaded(runs.plan(Checkpoint.open(model).config, (1, 1)))
    with pool() as ranks:
        run = HealedRun.begun(ranks, plan, run_of(model, 1.5))
        with present(run.engine.greet, 1.5):
            time.sleep(2.0)  # a driver between two steps
            assert not run.crew.lost()
        soon(lambda: len(run.crew.lost()) == 2)
        assert all(str(ORPHANED) in how for how in run.crew.lost().values())
        assert not any(map(psutil.pid_exists, run.began))


def test_who_cannot_give_back_what_it_holds_ends_all_the_same() -> None:
    process = RankProcess(0, Helpless)
    process.tell("limit", LIMIT).result(30.0)
    soon(lambda: process.end is not None)
    assert str(ORPHANED) in str(process.end)


def test_what_a_driver_commands_is_heard_too(model: Path) -> None:
    plan = single_threaded(runs.plan(Checkpoint.open(model).config, (2,)))
    with pool() as ranks:
        run = HealedRun.begun(ranks, plan, run_of(model, 0.0))
        (seat,) = plan.seats
        assert run.crew.tell(seat, "silence").result(10.0) is None
        run.crew.tell(seat, "wait_for_driver", 60.0).result(10.0)
        time.sleep(1.5)
        before = run.crew.tell(seat, "silence").result(10.0)
        command = run.crew.tell(seat, "built_as").result(10.0)
        run.engine.train_step(runs.batch(Checkpoint.open(model).config, run.run, 0))
        assert run.crew.tell(seat, "silence").result(10.0) < before
        assert (command.plan, command.seat, command.run) == (plan, seat, run.run)
