"""Training under a plan beside one process: every step compared, and all that is held after."""

from pathlib import Path
from typing import Any

import pytest

from actors.commands import StepReport
from actors.engine.reports import merge
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from tests import agreement, runs
from tests.ranks import Ranks, Team
from tests.reference import PlainTraining


def train_both(
    ranks: Ranks,
    directory: Path,
    run: RunConfig,
    plan: Plan,
    steps: int,
    tolerance: float = 1e-5,
) -> None:
    """Train both ways for some steps.

    Weights and moments are compared where rounding has not had many steps to grow.
    """
    config = Checkpoint.open(directory).config
    plain = PlainTraining(directory, run)
    team = ranks.started(plan, directory, run, runs.LENGTH)
    for step in range(steps):
        batch = runs.batch(config, run, step)
        plain.step(batch)
        report = stepped(team, step)
        assert report.loss == pytest.approx(plain.losses[-1], rel=tolerance)
        assert report.gradient_norm == pytest.approx(plain.norms[-1], rel=10 * tolerance)
        for layer, rate in plain.drop_rates.items():
            assert report.layers[layer].drop_rate == pytest.approx(rate, abs=0.1 * tolerance)
        check_losses(report, plain, run)
        assert tuple(sorted(report.layers)) == config.moe_layers
    if steps <= 5:
        agreement.check_held(team, plain)
    else:
        agreement.check_same_bits(team.held())


def check_losses(report: StepReport, plain: PlainTraining, run: RunConfig) -> None:
    """Compare what is reported of the losses on routers."""
    for layer, found in report.layers.items():
        assert found.z_loss == near(plain.extras["z"].get(layer))
        assert found.device_loss == near(plain.extras["device"].get(layer))
        if run.balance.scope == "global-batch":
            assert found.balance_loss == near(plain.balance_losses[layer])


def near(value: float | None) -> Any:
    return None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)


def stepped(team: Team, step: int) -> StepReport:
    """Run a step; every replica must tell the same of it."""
    assert team.run is not None
    config = Checkpoint.open(team.run.model.path).config
    batch = runs.batch(config, team.run, step)
    found, size = team.step(batch), team.plan.ranks
    reports = [
        merge(found[first : first + size], batch.label_count, 0.0)
        for first in range(0, len(found), size)
    ]
    agreement.check_reports(reports)
    return reports[0]
