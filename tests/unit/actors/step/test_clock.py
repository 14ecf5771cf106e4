"""How long ranks wait in a step, and for whom."""

from itertools import pairwise
from pathlib import Path

import pytest

from actors.commands import Waits
from actors.device import CpuDevice, Mark
from actors.engine.reports import merge
from actors.step.clock import Clock
from moe.planning.plan.plan import Plan
from moe.planning.schedules.schedule import Action, actions
from moe.planning.schedules.simulate import Event
from tests import exports, runs
from tests.ranks import Ranks
from tests.routed import routed


class Ticks(CpuDevice):
    """A device on which every mark is a second after the one before."""

    def __init__(self) -> None:
        object.__setattr__(self, "marks", iter(range(100)))

    def mark(self) -> Mark:
        return float(next(self.marks))  # type: ignore[attr-defined]


def test_waits_are_counted_by_whom_they_are_for_and_within_a_step_alone() -> None:
    clock = Clock(Ticks())
    with clock.waiting("gang"):
        pass
    clock.begin()
    for whom in ("stages", "gang", "stages", "end"):
        with clock.waiting(whom):
            pass
    with pytest.raises(RuntimeError), clock.waiting("replicas"):
        raise RuntimeError
    assert clock.end() == Waits(stages=2.0, gang=1.0, end=1.0)
    clock.begin()
    assert clock.end() == Waits()


def test_pieces_of_work_are_noted_in_traced_steps_alone() -> None:
    clock = Clock(Ticks())
    first, second = Action("F", 0, 0), Action("B", 0, 0)
    clock.begin()
    with clock.working(first):
        pass
    assert clock.events() == ()
    clock.begin(traced=True)
    with clock.working(first), clock.waiting("gang"):
        pass
    with clock.working(second):
        pass
    assert clock.events() == (Event(first, 1.0, 4.0), Event(second, 5.0, 6.0))
    clock.begin()
    assert clock.events() == ()


def test_every_stage_traces_its_order_in_the_steps_that_the_monitor_looks_at(
    ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(3, experts=4)
    model = exports.export(config, tmp_path / "model")
    run = runs.run_config(model, monitor={"every": 2})
    team = ranks.started(runs.plan(config, (1, 2)), model, run, runs.LENGTH)
    orders = actions("1f1b", 2, 4)
    for step, traced in enumerate((True, False, True)):
        report = merge(team.step(runs.batch(config, run, step)), 80, 1.0)
        assert len(report.timeline) == (2 if traced else 0)
        for order, events in zip(orders, report.timeline, strict=False):
            assert tuple(event.action for event in events) == order
            assert all(event.start < event.stop for event in events)
            assert all(one.stop <= other.start for one, other in pairwise(events))


@pytest.mark.parametrize("split", ["stages", "a gang", "replicas"])
def test_ranks_wait_for_those_with_whom_they_share_a_step(
    split: str, ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(3, experts=4)
    model = exports.export(config, tmp_path / "model")
    plans: dict[str, Plan] = {
        "stages": runs.plan(config, (1, 2)),
        "a gang": runs.plan(config, (3,), (2, 1), (2, 2)),
        "replicas": runs.repeated(runs.plan(config, (3,)), 2),
    }
    run = runs.run_config(model)
    team = ranks.started(plans[split], model, run, runs.LENGTH)
    reports = team.step(runs.batch(config, run, 0))
    assert len(reports) == 2
    for report in reports:
        waits = report.waits
        assert waits.end > 0
        found = [waits.stages > 0, waits.gang > 0, waits.replicas > 0]
        assert found == [split == "stages", split == "a gang", split == "replicas"]
        waited = waits.stages + waits.gang + waits.replicas + waits.end
        assert report.compute_seconds == pytest.approx(report.busy_seconds - waited)
        assert 0 < report.compute_seconds < report.busy_seconds
