"""The line about a change of plan."""

from actors.engine.resizing import Resized, Unchanged
from moe.errors import PlanError
from pipelines.training.rescaled import NotRescaled, Rescaled
from tests import runs
from tests.plans import SMOLLM2

PLAN = runs.repeated(runs.plan(SMOLLM2, (15, 15)), 2)


def test_a_change_of_plan_is_one_line() -> None:
    seconds = {"process": 0.5, "moved": 0.75}
    resized = Resized(4, PLAN, 3 * 10**6, 2, 2, 0, "another plan is wished for", seconds)
    line = Rescaled.of(resized).line
    assert line == (
        "resized after step 4 to 2 replicas of 2 stages of 1 rank: 3.00 MB moved in 1.2 s; 2 "
        "actors kept, 2 new, 0 ended"
    )


def test_a_change_that_failed_says_whether_anybody_noticed() -> None:
    rolled_back = NotRescaled.of(4, Unchanged("rank 2 died\nby SIGKILL", disturbed=True))
    assert rolled_back.line == (
        "change of plan rolled back after step 4, the old plan goes on: rank 2 died"
    )
    refused = NotRescaled.refused(4, PlanError("no room"))
    assert refused.line == "change of plan refused after step 4, the old plan goes on: no room"
