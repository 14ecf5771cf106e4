"""A run's schedule against its plan and its micro-batches, before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from actors.step.replicas import check_step
from moe.errors import PlanError
from moe.planning.plan.file import save_plan
from moe.planning.plan.plan import Plan
from moe.planning.search.interleave import interleave
from pipelines.planning.run_work import workload
from pipelines.training.run_plan import plan_for
from tests import runs
from tests.plans import SMOLLM2, inventory

TWO = runs.plan(SMOLLM2, (15, 15))


def training(schedule: str, batch: int) -> dict[str, Any]:
    return {"schedule": schedule, "global_batch": batch, "micro_batch": 1}


@pytest.mark.parametrize(
    ("plan", "schedule", "batch", "message"),
    [
        (TWO, "1f1b", 1, r"has 1 micro-batches .*, 1 for replica 0: 1f1b of 2 stages needs at"),
        (interleave(TWO, 2), "1f1b", 8, r"1f1b needs one span .* schedule to interleaved-1f1b"),
        (interleave(TWO, 2, True), "zero-bubble", 8, r"set the schedule to zbv"),
        (interleave(TWO, 2), "zero-bubble", 7, r"7 for replica 0: .* a multiple of 2"),
        (runs.repeated(TWO, 3), "1f1b", 5, r"has 5 micro-batches .*, 1 for replica 0: 1f1b of 2"),
        (runs.repeated(TWO, 3), "zero-bubble", 17, r"17 micro-batches .*, 5 for replica 0: zero"),
        (runs.repeated(TWO, 3), "gpipe", 2, r"has 2 micro-batches .* but the plan has 3 replicas"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, plan: Plan, schedule: str, batch: int, message: str
) -> None:
    run = runs.run_config(tmp_path, train=training(schedule, batch), plan={"path": "p"})
    with pytest.raises(PlanError, match=message):
        check_step(plan, schedule, run.train.micro_batches)


@pytest.mark.parametrize(
    ("plan", "schedule", "batch"),
    [
        (TWO, "gpipe", 1),
        (runs.repeated(TWO, 3), "1f1b", 7),
        (runs.repeated(interleave(TWO, 2, True), 2), "zbv", 3),
        (interleave(TWO, 3), "interleaved-1f1b", 6),
    ],
)
def test_what_goes_together_is_taken_from_the_plan_file(
    tmp_path: Path, plan: Plan, schedule: str, batch: int
) -> None:
    path = tmp_path / "plan.toml"
    save_plan(plan, path)
    run = runs.run_config(tmp_path, train=training(schedule, batch), plan={"path": str(path)})
    check_step(plan, schedule, run.train.micro_batches)
    assert workload(run, 16, inventory(1)).schedule == schedule
    if plan.replicas == 1:
        assert plan_for(run, SMOLLM2, 16) == plan
