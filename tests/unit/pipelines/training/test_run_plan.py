"""How many replicas a run may have, and what each is asked to carry."""

from dataclasses import replace
from pathlib import Path

import pytest

from moe.errors import ConfigError, PlanError
from moe.planning.counts.workload import BF16, FLOAT32, Numerics
from moe.planning.plan.file import save_plan
from pipelines.planning.run_work import workload
from pipelines.training.run_plan import (
    NOTHING,
    check_plan,
    fullest_plan,
    plan_with_room,
    replicas_of,
)
from tests import runs
from tests.plans import SMOLLM2, inventory


def test_replicas_are_those_of_the_run_or_of_its_plan(tmp_path: Path) -> None:
    save_plan(runs.repeated(runs.plan(SMOLLM2, (15, 15)), 3), tmp_path / "plan.toml")
    path = str(tmp_path / "plan.toml")
    assert replicas_of(runs.run_config(tmp_path)) == (1, 1)
    assert replicas_of(runs.run_config(tmp_path, plan={"replicas": 2})) == (2, 2)
    assert replicas_of(runs.run_config(tmp_path, plan={"path": path})) == (3, 3)
    elastic = runs.run_config(tmp_path, plan={"path": path, "least_replicas": 2})
    assert replicas_of(elastic) == (2, 3)
    more = runs.run_config(tmp_path, plan={"path": path, "least_replicas": 4})
    with pytest.raises(ConfigError, match=r"least_replicas is 4 but .*plan\.toml has 3 replicas"):
        replicas_of(more)


def test_a_run_starts_anew_with_fewer_replicas_than_its_file_says_where_somebody_wished_so(
    tmp_path: Path,
) -> None:
    run = runs.run_config(tmp_path, plan={"replicas": 2})
    wished = runs.plan(SMOLLM2, (15, 15))
    assert plan_with_room(run, SMOLLM2, 16, wished, NOTHING) == wished


def test_the_fullest_replica_is_what_a_plan_must_carry(tmp_path: Path) -> None:
    run = runs.run_config(tmp_path, train={"global_batch": 14})
    there = inventory(2)
    assert [workload(run, 16, there, count).micro_batches for count in (1, 2, 3)] == [7, 4, 3]


@pytest.mark.parametrize(("precision", "numerics"), [("fp32", FLOAT32), ("bf16", BF16)])
def test_a_run_is_planned_in_its_precision(
    precision: str, numerics: Numerics, tmp_path: Path
) -> None:
    run = runs.run_config(tmp_path, train={"precision": precision})
    assert workload(run, 16, inventory(1)).numerics == numerics


def test_the_schedule_must_suit_every_number_of_replicas(tmp_path: Path) -> None:
    """Of 16 micro-batches three replicas get 5, 5 and 6, and two stages of zero-bubble no 5."""
    save_plan(runs.repeated(runs.plan(SMOLLM2, (15, 15)), 4), tmp_path / "plan.toml")
    train = {"global_batch": 16, "micro_batch": 1, "schedule": "zero-bubble"}
    made = {}
    for least in (4, 1):
        plan = {"path": str(tmp_path / "plan.toml"), "least_replicas": least}
        made[least] = runs.run_config(tmp_path, train=train, plan=plan)
    assert fullest_plan(made[4], SMOLLM2, 16).replicas == 4
    with pytest.raises(PlanError, match=r"allows 3 replicas, which cannot run: .*zero-bubble"):
        fullest_plan(made[1], SMOLLM2, 16)


def test_a_plan_file_is_checked_without_a_cluster(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    run = runs.run_config(tmp_path, plan={"path": str(path)}, train={"global_batch": 4})
    with pytest.raises(PlanError, match=f"no plan at {path}"):
        check_plan(run, SMOLLM2, 16)
    save_plan(runs.plan(SMOLLM2, (15, 15)), path)
    check_plan(run, SMOLLM2, 16)
    with pytest.raises(PlanError, match="layers = 30, the model has 6"):
        check_plan(run, replace(SMOLLM2, layers=6), 16)
    check_plan(runs.run_config(tmp_path), SMOLLM2, 16)


def test_a_plan_gives_no_more_replicas_than_it_has() -> None:
    plan = runs.repeated(runs.plan(SMOLLM2, (30,)), 3)
    assert plan.of_replicas(2).stages[0].ranks[0].devices == ("test/0", "test/1")
    with pytest.raises(PlanError, match="asked for 4 replicas of a plan of 3"):
        plan.of_replicas(4)
