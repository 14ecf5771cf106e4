"""Which living actors a run may take over: those of the same run, as they were built."""

from typing import Any

import pytest

from actors.commands import BuildCommand
from moe.config.run import RunConfig, parse_run
from moe.errors import ConfigError, LaunchError
from moe.planning.plan.seats import Seat
from pipelines.training.takeover import check_taken_over
from tests import plans

LENGTH = 16
PLAN = plans.single(plans.SMOLLM2)


def run_of(**sections: dict[str, Any]) -> RunConfig:
    table: dict[str, dict[str, Any]] = {
        "model": {"path": "/model"},
        "data": {"path": "/data"},
        "train": {"steps": 10, "global_batch": 4, "learning_rate": 1e-3},
        "plan": {"stages": 2},
        "checkpoint": {"path": "/run"},
    }
    for section, keys in sections.items():
        table[section] = table.get(section, {}) | keys
    return parse_run({"name": "test", **table}, "test")


FOUND = BuildCommand(PLAN, Seat(0, 0, 0), LENGTH, run_of())


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"checkpoint": {"every": 3, "keep": 9}},
        {"cluster": {"address": "auto", "max_failures": 1}},
        {"elastic": {"copy_every": 5, "spares": 0, "faults": True}},
        {"elastic": {"copy_every": 0}},
    ],
)
def test_what_only_the_driver_reads_may_change(sections: dict[str, Any]) -> None:
    check_taken_over(run_of(**sections), FOUND, LENGTH)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"path": "/other"}}, "model.path was '/model' and is '/other'"),
        ({"data": {"seed": 1}}, "data.seed was 0 and is 1"),
        ({"train": {"steps": 20}}, "train.steps was 10 and is 20"),
        ({"train": {"learning_rate": 0.1}}, r"train.learning_rate was 0.001 and is 0.1"),
        ({"routing": {"capacity_factor": 2.0}}, "routing.capacity_factor was None and is 2.0"),
        ({"balance": {"z_loss": 0.5}}, "balance.z_loss was 0.0 and is 0.5"),
        ({"plan": {"stages": 1}}, "plan.stages was 2 and is 1"),
        ({"checkpoint": {"path": "/elsewhere"}}, "checkpoint.path was '/run' and is '/elsew"),
        ({"elastic": {"orphan_seconds": 0}}, "elastic.orphan_seconds was 600.0 and is 0.0"),
    ],
)
def test_another_run_is_refused_with_what_differs(sections: dict[str, Any], said: str) -> None:
    match = f"takes over the actors of test, which live, but {said}.*raymoe stop test"
    with pytest.raises(ConfigError, match=match):
        check_taken_over(run_of(**sections), FOUND, LENGTH)


def test_rows_of_another_length_and_actors_that_serve_are_refused() -> None:
    with pytest.raises(ConfigError, match="a row of /data had 16 tokens and has 17"):
        check_taken_over(run_of(), FOUND, LENGTH + 1)
    with pytest.raises(LaunchError, match="a run named test is on this cluster already"):
        check_taken_over(run_of(), BuildCommand(PLAN, Seat(0, 0, 0), LENGTH), LENGTH)
