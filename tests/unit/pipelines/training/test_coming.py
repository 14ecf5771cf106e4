"""A run whose nodes are still to come, on a cluster that is played."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe.config.run import RunConfig
from moe.errors import ClusterError, PlanError
from pipelines.training import coming
from pipelines.training.run_plan import NOTHING
from tests import plans, runs

LENGTH = 8


class Cluster:
    """A cluster whose nodes come one at each look; so many must be there for a plan."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, needed: int, error: Exception) -> None:
        self.nodes, self.needed, self.error, self.asked = 0, needed, error, list[Any]()
        monkeypatch.setattr(coming, "LOOK_SECONDS", 0.0)
        monkeypatch.setattr(coming, "living_nodes", self.look)
        monkeypatch.setattr(coming, "measured", lambda run, config, length: NOTHING)
        monkeypatch.setattr(coming, "devices", self.devices)
        monkeypatch.setattr(coming, "planned", self.planned)

    def look(self) -> set[str]:
        self.nodes += 1
        return set(map(str, range(self.nodes)))

    def devices(self, run: RunConfig, found: Any) -> str:
        if self.nodes < self.needed and isinstance(self.error, ClusterError):
            raise self.error
        return "devices"

    def planned(self, run: RunConfig, config: Any, length: int, there: Any) -> str:
        self.asked.append(there)
        if self.nodes < self.needed and there is not None:
            raise self.error
        return "plan"


def made(run: RunConfig, tell: Callable[[str], object] = str) -> tuple[Any, Any]:
    return coming.measured_and_planned(run, plans.SMOLLM2, LENGTH, tell)


def run_of(tmp_path: Path, **sections: Any) -> RunConfig:
    return runs.run_config(tmp_path, **sections)


@pytest.mark.parametrize("error", [PlanError("two devices\nmore"), ClusterError("no device")])
def test_a_run_waits_until_its_plan_fits_and_says_once_for_what(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cluster(monkeypatch, 6, error)
    lines: list[str] = []
    run = run_of(tmp_path, cluster={"wait_seconds": 60.0})
    assert made(run, lines.append) == (NOTHING, "plan")
    assert lines == [f"waiting for room, at most 60 s: {str(error).splitlines()[0]}"]


def test_a_run_that_does_not_wait_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch, 10**9, PlanError("two devices"))
    with pytest.raises(PlanError, match="two devices"):
        made(run_of(tmp_path, cluster={"wait_seconds": 0.0}))
    assert len(cluster.asked) == 1


def test_a_run_with_its_plan_needs_no_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch, 1, ClusterError("no device"))
    monkeypatch.setattr(coming, "living_nodes", set)  # none comes
    assert made(run_of(tmp_path, plan={"path": "plan.toml"})) == (NOTHING, "plan")
    assert cluster.asked == [None]


def test_a_job_waits_longer_than_who_sits_in_front_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert coming.wait_seconds(run_of(tmp_path)) == 0.0
    monkeypatch.setattr(coming, "inside_job", lambda: True)
    assert coming.wait_seconds(run_of(tmp_path)) == coming.JOB_SECONDS
    assert coming.wait_seconds(run_of(tmp_path, cluster={"wait_seconds": 5.0})) == 5.0
