"""A run whose plan changes while it trains: who stays keeps its process, and every number stays."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from actors.engine.resizing import Resized, Unchanged
from actors.faults.armed import FaultPlan
from moe.checkpoint.reader import Checkpoint
from moe.config.fault import Fault
from moe.config.run import RunConfig
from moe.config.run.elastic import Shrink
from moe.errors import RankLost
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.surgery.initialise import initialise
from tests import runs
from tests.healed import HealedRun, Strike, at, signalled, unharmed
from tests.ranks import SECONDS, Ranks, single_threaded
from tests.routed import routed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resizing") / "model"
    initialise(routed(3, gate_norm=1.0), path, seed=0)
    return path


def run_of(model: Path, **sections: Any) -> RunConfig:
    own = {"copy_every": 2, "hang_seconds": 1.0, "max_failures": 99, "faults": True}
    own |= sections.pop("elastic", {})
    cluster = {"group_seconds": 20.0}
    return runs.run_config(model, elastic=own, cluster=cluster, **sections)


def plan_of(
    model: Path, layers: tuple[int, ...], heads: tuple[int, ...] = (3,), replicas: int = 1
) -> Plan:
    config = Checkpoint.open(model).config
    rest = len(heads) - 1
    experts = (config.experts - rest, *(1 for _ in range(rest)))
    return single_threaded(runs.repeated(runs.plan(config, layers, heads, experts), replicas))


def wishes(*plans: Plan) -> Strike:
    """Return what wishes for the first plan before step 2, for the next before step 3."""
    wished = {2 + number: plan for number, plan in enumerate(plans)}

    def strike(run: HealedRun, step: int) -> None:
        if step in wished:
            run.wish(wished.pop(step))

    return strike


@pytest.fixture(scope="module")
def one(ranks: Ranks, model: Path) -> dict[int, float]:
    """The losses of the run on one rank."""
    return HealedRun.begun(ranks, plan_of(model, (3,)), run_of(model)).go(unharmed).losses


CHANGES = {
    "replicas": (((2, 1), (3,), 1), ((2, 1), (3,), 2)),
    "stages": (((2, 1),), ((1, 1, 1),)),
    "gang": (((3,), (2, 1)), ((3,),)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_to_another_plan_and_back(
    change: str, ranks: Ranks, model: Path, one: dict[int, float]
) -> None:
    first, second = (plan_of(model, *shape) for shape in CHANGES[change])
    done = HealedRun.begun(ranks, first, run_of(model)).go(wishes(second, first))
    there, back = done.resized
    assert isinstance(there, Resized)
    assert isinstance(back, Resized)
    few = min(len(first.seats), len(second.seats))
    more = len(second.seats) - len(first.seats)
    assert (there.kept, there.started, there.ended) == (few, max(more, 0), max(-more, 0))
    assert (back.kept, back.started, back.ended) == (few, max(-more, 0), max(more, 0))
    assert there.bytes > 0
    assert len({*done.began} & {*done.pids()}) == few
    assert done.engine.plan == first
    assert done.losses == pytest.approx(one, abs=1e-5)
    assert done.healed == []


def test_experts_move_between_the_ranks_of_a_gang_and_nobody_starts_or_ends(
    ranks: Ranks, model: Path, one: dict[int, float]
) -> None:
    old = plan_of(model, (3,), (2, 1))
    new = runs.placing(old, {1: ((0, 2), (1, 3))})
    run = run_of(model, elastic={"copy_every": "auto"})
    done = HealedRun.begun(ranks, old, run).go(wishes(new))
    (moved,) = done.resized
    assert isinstance(moved, Resized)
    assert (moved.kept, moved.started, moved.ended) == (2, 0, 0)
    assert done.pids() == done.began
    assert done.losses == pytest.approx(one, abs=1e-5)


@pytest.fixture(scope="module")
def two(ranks: Ranks, model: Path) -> dict[int, float]:
    """The losses of the run on two stages."""
    return HealedRun.begun(ranks, plan_of(model, (2, 1)), run_of(model)).go(unharmed).losses


HARM = [
    Fault("kill", 2, 2, "resize"),
    Fault("hang", 2, 2, "resize"),
    Fault("raise", 2, 2, "resize"),
    Fault("kill", 2, 2, "copy"),
    Fault("kill", 0, 2, "resize"),
    Fault("hang", 1, 2, "resize"),
]


@pytest.mark.parametrize("fault", HARM, ids=str)
def test_a_change_in_which_a_rank_is_harmed_leaves_the_old_plan_running(
    fault: Fault, ranks: Ranks, model: Path, two: dict[int, float], tmp_path: Path
) -> None:
    """Rank 2 is new and receives, ranks 0 and 1 give. In the phase copy all have new shares."""
    old, new = plan_of(model, (2, 1)), plan_of(model, (2, 1), replicas=2)
    faults = FaultPlan((fault,), tmp_path)
    done = HealedRun.begun(ranks, old, run_of(model), faults).go(wishes(new))
    (failed,) = done.resized
    assert isinstance(failed, Unchanged)
    assert failed.disturbed
    assert len(faults.spent()) == 1
    replaced = () if fault.rank == 2 else (fault.rank,)
    assert [each.replaced for each in done.healed] == [replaced]
    assert len({*done.began} & {*done.pids()}) == 2 - len(replaced)
    assert done.losses == two
    assert done.engine.plan == old


def test_a_rank_that_hangs_in_a_change_is_ended_as_soon_as_that_is_known(
    ranks: Ranks, model: Path, tmp_path: Path
) -> None:
    """Nobody has to find out once more after the change, for which all would wait again."""
    old, new = plan_of(model, (2, 1)), plan_of(model, (2, 1), replicas=2)
    faults = FaultPlan((Fault("hang", 1, 0, "resize"),), tmp_path)
    begun = HealedRun.begun(ranks, old, run_of(model), faults)
    with pytest.raises(RankLost, match="rank 1 has not answered for 1 s"):
        begun.wish(new)
    until = time.monotonic() + SECONDS
    while begun.engine.crew.lost().keys() != {Seat(0, 1, 0)}:
        assert time.monotonic() < until


def test_a_rank_that_is_lost_right_after_a_change_comes_back_from_its_new_copy(
    ranks: Ranks, model: Path, two: dict[int, float]
) -> None:
    old, new = plan_of(model, (2, 1)), plan_of(model, (1, 1, 1))
    change, kill = wishes(new), at(2, signalled(signal.SIGKILL, 2))

    def strike(run: HealedRun, step: int) -> None:
        change(run, step)
        kill(run, step)

    done = HealedRun.begun(ranks, old, run_of(model)).go(strike)
    assert [(each.step, each.replaced) for each in done.healed] == [(2, (2,))]
    assert done.losses == pytest.approx(two, abs=1e-5)


def test_a_plan_that_does_not_suit_the_step_disturbs_nobody(ranks: Ranks, model: Path) -> None:
    begun = HealedRun.begun(ranks, plan_of(model, (3,)), run_of(model))
    epoch = begun.engine.status()[0].epoch
    begun.wish(plan_of(model, (3,), replicas=5))
    (refused,) = begun.resized
    assert isinstance(refused, Unchanged)
    assert "a step has 4 micro-batches" in refused.reason
    assert not refused.disturbed
    assert begun.go(unharmed, until=1).engine.status()[0].epoch == epoch


def test_projectors_do_not_move_between_living_ranks(ranks: Ranks, model: Path) -> None:
    run = run_of(model, train={"orthogonal": {}}, elastic={"copy_every": 0})
    begun = HealedRun.begun(ranks, plan_of(model, (3,)), run)
    begun.wish(plan_of(model, (2, 1)))
    (refused,) = begun.resized
    assert isinstance(refused, Unchanged)
    assert "projectors of train.orthogonal do not move" in refused.reason
    assert not refused.disturbed
    assert sorted(begun.go(unharmed, until=2).losses) == [0, 1]


def test_a_change_that_takes_too_long_is_given_up(ranks: Ranks, model: Path) -> None:
    run = run_of(model, elastic={"resize_seconds": 0.01})
    begun = HealedRun.begun(ranks, plan_of(model, (3,)), run)
    done = begun.go(wishes(plan_of(model, (2, 1))), until=4)
    (failed,) = done.resized
    assert isinstance(failed, Unchanged)
    assert sorted(done.losses) == [0, 1, 2, 3]


SMALLER: dict[str, tuple[Any, int, Any]] = {
    "replicas": (((2, 1), (3,), 2), 3, ((2, 1), (3,), 1)),
    "stages": (((1, 1, 1),), 1, ((2, 1),)),
}
"""The plan, the rank that is lost, and the plan over what is left."""


@pytest.mark.parametrize("how", SMALLER)
def test_a_loss_without_room_goes_on_under_a_smaller_plan(
    how: Any, ranks: Ranks, model: Path, one: dict[int, float]
) -> None:
    """The lost rank gives from its copy, and survivors that went on since from theirs."""
    shape, rank, left = SMALLER[how]
    old, new = plan_of(model, *shape), plan_of(model, *left)
    run = HealedRun.begun(ranks, old, run_of(model))
    lost = old.seats.seat(rank)

    def smaller(asked: Shrink, gone: frozenset[Seat]) -> Plan | None:
        assert gone == {lost}
        return new if asked == how else None

    def harm(run: HealedRun) -> None:
        run.crew.full = True
        signalled(signal.SIGKILL, rank)(run)

    run.smaller = smaller
    done = run.go(at(3, harm))
    (smaller_now,) = done.resized
    assert isinstance(smaller_now, Resized)
    kept = len(new.seats)
    assert (smaller_now.step, smaller_now.kept, smaller_now.started) == (2, kept, 0)
    assert smaller_now.ended == len(old.seats) - 1 - kept
    assert {*done.pids()} <= {*done.began}
    assert done.losses == pytest.approx(one, abs=1e-5)
