"""Ranks that are lost in every part of a run: the others stay, and every number is undisturbed."""

from pathlib import Path
from typing import Any

import pytest

from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from moe.surgery.initialise import initialise
from tests import runs
from tests.healed import HealedRun
from tests.ranks import single_threaded
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


def check(found: HealedRun, expected: HealedRun, losses: dict[int, float]) -> None:
    """Compare a run that healed with one that was not disturbed, to the bit."""
    assert found.losses == losses
    assert all(
        one.equal(other) for one, other in zip(found.tensors(), expected.tensors(), strict=True)
    )
