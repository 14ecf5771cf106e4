"""Ranks whose node is told to leave: moved in time where that is possible, with no step lost."""

import signal
from pathlib import Path
from typing import Any

import pytest

from actors.engine.healing import Making, Surroundings
from actors.engine.pace import FIXED_SECONDS, bytes_held
from actors.engine.resizing import Resized, Unchanged
from actors.state.sources import Blank, ModelSource
from moe.config.run.elastic import Shrink
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.policy.decision import GoOn
from moe.surgery.initialise import initialise
from tests import runs
from tests.healed import HealedRun, at, signalled, unharmed
from tests.ranks import Ranks, single_threaded
from tests.routed import routed

CONFIG = routed(3, gate_norm=1.0)
PLAN = single_threaded(runs.plan(CONFIG, (2, 1)))
TWICE = single_threaded(runs.repeated(PLAN, 2))
SOON, LATE = FIXED_SECONDS - 1, 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("leaving") / "model"
    initialise(CONFIG, path, seed=0)
    return path


@pytest.fixture(scope="module")
def two(ranks: Ranks, model: Path) -> dict[int, float]:
    """The losses of the undisturbed run."""
    return HealedRun.begun(ranks, PLAN, run_of(model)).go(unharmed).losses


def run_of(model: Path, **elastic: Any) -> Any:
    section = {"copy_every": 2, "hang_seconds": 1.0} | elastic
    return runs.run_config(model, elastic=section, cluster={"group_seconds": 20.0})


def goes(run: HealedRun, seats: tuple[Seat, ...], seconds: float) -> GoOn | None:
    """Have the node of some seats be told to leave, and do what is decided; why nothing is."""
    leaving = dict.fromkeys(seats, seconds)
    around = Surroundings(0, 0, smaller=run.smaller, leaving=leaving)
    done = run.engine.consider(around)
    if isinstance(done, Resized | Unchanged):
        run.resized.append(done)
        return None
    return done


def test_ranks_leave_in_time_and_no_step_is_lost(
    ranks: Ranks, model: Path, two: dict[int, float]
) -> None:
    run = HealedRun.begun(ranks, PLAN, run_of(model))
    away = Seat(0, 1, 0)
    making = Making(run.run, Blank.of(ModelSource(model)), runs.LENGTH)
    size = bytes_held(making, PLAN, {away})
    done = run.go(at(3, lambda run: goes(run, (away,), LATE)))
    (moved,) = done.resized
    assert isinstance(moved, Resized)
    assert (moved.step, moved.kept, moved.started, moved.ended) == (3, 1, 1, 1)
    assert moved.bytes == size > 0
    assert "moved off a node that goes in 60 s" in moved.reason
    before, after = done.began, done.pids()
    assert (after[0], after[1] != before[1]) == (before[0], True)
    assert (done.losses, done.healed) == (two, [])


def test_a_notice_that_is_too_short_is_left_to_healing(
    ranks: Ranks, model: Path, two: dict[int, float]
) -> None:
    def harm(run: HealedRun) -> None:
        stays = goes(run, (Seat(0, 1, 0),), SOON)
        assert stays is not None
        assert "too soon to move" in stays.reason
        signalled(signal.SIGKILL, 1)(run)

    done = HealedRun.begun(ranks, PLAN, run_of(model)).go(at(3, harm))
    assert done.resized == []
    assert [each.replaced for each in done.healed] == [(1,)]
    assert done.losses == two


@pytest.mark.parametrize("prefers", ["replicas", "stages", "wait"])
def test_where_there_is_no_room_the_run_file_says_what_it_gives_up(
    prefers: Shrink, ranks: Ranks, model: Path, two: dict[int, float]
) -> None:
    fewer: dict[Shrink, Plan] = {
        "replicas": PLAN,
        "stages": single_threaded(runs.repeated(runs.plan(CONFIG, (3,)), 2)),
    }
    run = HealedRun.begun(ranks, TWICE, run_of(model, on_shrink=prefers))
    gang = TWICE.seats.of_stage(1, 1)
    run.crew.full = True
    run.smaller = lambda how, gone: fewer[how] if gone == {*gang} else None
    done = run.go(at(2, lambda run: goes(run, gang, LATE)))
    assert done.losses == pytest.approx(two, abs=1e-5)
    (shrunk,) = done.resized
    if prefers == "wait":
        assert shrunk == Unchanged("there is no room for another process", disturbed=False)
        assert done.engine.plan == TWICE
    else:
        assert isinstance(shrunk, Resized)
        assert f"no room elsewhere: fewer {prefers}" in shrunk.reason
        assert done.engine.plan == fewer[prefers]
        assert {*done.pids()} <= {*done.began}
        assert done.pids()[-1] != done.began[-1]
