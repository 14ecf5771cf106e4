"""Ranks that are lost in every part of a run: the others stay, and every number is undisturbed."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.engine.healing import Making, Surroundings
from actors.engine.training import TrainingEngine
from actors.faults.armed import FaultPlan
from actors.state.sources import Blank, ModelSource
from moe.checkpoint.reader import Checkpoint
from moe.config.fault import Fault
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.policy.decision import Restore, Stop
from moe.surgery.initialise import initialise
from tests import runs
from tests.healed import HealedRun, at, signalled, unharmed
from tests.ranks import Ranks, single_threaded
from tests.routed import routed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("healing") / "model"
    initialise(routed(3, gate_norm=1.0), path, seed=0)
    return path


def run_of(model: Path, elastic: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    own = {"copy_every": 2, "hang_seconds": 1.0, "max_failures": 99, "faults": True}
    cluster = {"group_seconds": 20.0}
    return runs.run_config(model, elastic=own | (elastic or {}), cluster=cluster, **sections)


def stages(model: Path) -> Plan:
    """Three uneven stages."""
    return single_threaded(runs.plan(Checkpoint.open(model).config, (1, 1, 1)))


def gangs(model: Path) -> Plan:
    """Two replicas of two stages of two ranks."""
    config = Checkpoint.open(model).config
    return single_threaded(runs.repeated(runs.plan(config, (1, 2), (2, 1), (3, 1)), 2))


@dataclass(frozen=True)
class Undisturbed:
    """What a run comes to when nothing happens."""

    plan: Plan
    losses: dict[int, float]
    tensors: list[torch.Tensor]

    @classmethod
    def of(cls, ranks: Ranks, plan: Plan, run: RunConfig) -> "Undisturbed":
        done = HealedRun.begun(ranks, plan, run).go(unharmed)
        assert done.healed == []
        return cls(plan, done.losses, done.tensors())

    def check(self, done: HealedRun, lost: int) -> None:
        """Compare to the bit, and count the processes that are not those of the beginning."""
        assert done.losses == self.losses
        pairs = zip(done.tensors(), self.tensors, strict=True)
        assert all(one.equal(other) for one, other in pairs)
        kept = len({*done.began} & {*done.pids()})
        assert kept == len(self.plan.seats) - lost


@pytest.fixture(scope="module")
def three(ranks: Ranks, model: Path) -> Undisturbed:
    return Undisturbed.of(ranks, stages(model), run_of(model))


@pytest.fixture(scope="module")
def eight(ranks: Ranks, model: Path) -> Undisturbed:
    return Undisturbed.of(ranks, gangs(model), run_of(model))


KILLS = [("kill", p) for p in ("step", "forward", "backward", "reduction", "update", "copy")]
OTHERS = [("hang", "backward"), ("hang", "copy"), ("raise", "forward"), ("raise", "update")]


@pytest.mark.parametrize(("kind", "phase"), [*KILLS, *OTHERS])
def test_a_fault_in_any_part_of_a_step_changes_no_bit(
    kind: Any, phase: Any, ranks: Ranks, model: Path, three: Undisturbed, tmp_path: Path
) -> None:
    faults = FaultPlan((Fault(kind, 1, 2, phase),), tmp_path)
    done = HealedRun.begun(ranks, three.plan, run_of(model), faults).go(unharmed)
    assert len(faults.spent()) == 1
    three.check(done, lost=int(kind != "raise"))
    replaced = () if kind == "raise" else ("process", "built")
    copied = () if (kind, phase) == ("raise", "forward") else ("copied",)
    (healed,) = done.healed
    assert (*healed.seconds,) == ("seen", "decided", *replaced, "joined", *copied)
    assert all(seconds >= 0 for seconds in healed.seconds.values())


@pytest.mark.parametrize(("rank", "phase"), [(0, "reduction"), (6, "backward"), (6, "update")])
def test_one_of_eight_is_killed(
    rank: int, phase: Any, ranks: Ranks, model: Path, eight: Undisturbed, tmp_path: Path
) -> None:
    faults = FaultPlan((Fault("kill", rank, 3, phase),), tmp_path)
    done = HealedRun.begun(ranks, eight.plan, run_of(model), faults).go(unharmed)
    eight.check(done, lost=1)


def test_two_are_killed_at_once_and_one_more_while_it_starts_anew(
    ranks: Ranks, model: Path, eight: Undisturbed, tmp_path: Path
) -> None:
    """The copies of the two are with others; the replacement of one is lost when it is built."""
    faults = FaultPlan((Fault("kill", 3, 1, "start"),), tmp_path)
    begun = HealedRun.begun(ranks, eight.plan, run_of(model), faults)
    done = begun.go(at(3, signalled(signal.SIGKILL, 0, 3)))
    assert len(faults.spent()) == 1
    eight.check(done, lost=2)


def test_a_rank_and_the_holder_of_its_copy_lost_together_go_back_to_the_checkpoint(
    ranks: Ranks, model: Path, three: Undisturbed
) -> None:
    done = HealedRun.begun(ranks, three.plan, run_of(model)).go(unharmed, until=2)
    holder = done.engine.copying.holders[Seat(0, 1, 0)].stage
    signalled(signal.SIGKILL, 1, holder)(done)
    found = done.engine.recover(Surroundings(7, 1))
    assert isinstance(found, Restore)
    assert found.step == 7
    assert (
        "which held its only copy, are both lost: back to the checkpoint of step 7" in found.reason
    )


def test_a_run_without_copies_goes_back_to_the_checkpoint(ranks: Ranks, model: Path) -> None:
    run = run_of(model, {"copy_every": 0})
    done = HealedRun.begun(ranks, stages(model), run).go(unharmed, until=1)
    assert done.engine.copying.holders == {}
    signalled(signal.SIGKILL, 2)(done)
    found = done.engine.recover(Surroundings(0, 1))
    assert isinstance(found, Restore)
    assert "is lost and the run keeps no copies: back to the beginning" in found.reason


def test_more_losses_than_the_budget_allows_stop_the_run(ranks: Ranks, model: Path) -> None:
    done = HealedRun.begun(ranks, stages(model), run_of(model)).go(unharmed, until=1)
    signalled(signal.SIGKILL, 2)(done)
    assert isinstance(done.engine.recover(Surroundings(0, 100)), Stop)


def test_a_run_that_cannot_start_anew_as_it_was_is_planned_smaller(
    ranks: Ranks, model: Path
) -> None:
    """All ranks have ended, and a launch has found no room for them."""
    run, smaller = run_of(model, {"copy_every": 0}), gangs(model).of_replicas(1)
    done = HealedRun.begun(ranks, stages(model), run).go(unharmed, until=1)
    signalled(signal.SIGKILL, 0, 1, 2)(done)
    around = Surroundings(0, 1, room=False, smaller=lambda how, gone: smaller)
    found = done.engine.recover(around)
    assert isinstance(found, Restore)
    assert found.shape == smaller


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_that_can_only_wait_says_why_as_long_as_it_is_wanted(
    wanted: bool, ranks: Ranks, model: Path
) -> None:
    told: list[str] = []
    done = HealedRun.begun(ranks, stages(model), run_of(model)).go(unharmed, until=1)
    signalled(signal.SIGKILL, 0, 1, 2)(done)
    around = Surroundings(0, 1, room=False, wanted=lambda: wanted, waits=told.append)
    assert isinstance(done.engine.recover(around), Restore if wanted else Stop)
    assert [line.partition("; ")[2] for line in told] == (
        ["the run waits for nodes"] if wanted else []
    )


def test_ranks_that_are_taken_over_suffer_no_fault_of_the_command_line_before(
    ranks: Ranks, model: Path, three: Undisturbed, tmp_path: Path
) -> None:
    faults, run = FaultPlan((Fault("kill", 1, 2, "copy"),), tmp_path), run_of(model)
    done = HealedRun.begun(ranks, three.plan, run, faults).go(unharmed, until=1)
    making = Making(run, Blank.of(ModelSource(model)), runs.LENGTH)
    attached = TrainingEngine.attach(done.crew, three.plan, making)
    assert attached is not None
    done.engine = attached
    three.check(done.go(unharmed), lost=0)
    assert faults.spent() == ()
