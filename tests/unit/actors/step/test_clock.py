"""How long ranks wait in a step, and for whom."""

from pathlib import Path

import pytest

from actors.commands import Waits
from actors.device import CpuDevice, Mark
from actors.step.clock import Clock
from moe.planning.plan.plan import Plan
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
