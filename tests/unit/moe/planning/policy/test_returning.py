"""Which plans a run may grow to, and in which order."""

import pytest

from moe.errors import PlanError
from moe.planning.plan.plan import Plan
from moe.planning.policy.returning import anywhere, larger
from moe.planning.policy.shrinking import fewer_replicas
from tests.places import plan

ONE = {"threads": 1}
GOAL = plan([[ONE, ONE]] * 2, ("a/0", "b/0", "c/0"))
FEWER = plan([[ONE, ONE]], ("a/0", "b/0"))


def sizes(plans: "list[Plan]") -> list[tuple[int, int]]:
    return [(each.replicas, len(each.stages)) for each in plans]


def test_what_was_lost_comes_back_as_replicas_that_any_node_may_take() -> None:
    shrunk = fewer_replicas(GOAL, GOAL.seats.of_replica(0))
    assert shrunk is not None
    two, three = shrunk.plan, anywhere(shrunk.plan, 3)
    assert two.stages[1].ranks[0].devices == ("b/0", "c/0")
    assert three.stages[1].ranks[0].devices == ("b/0", "c/0", "any/2")
    assert three.of_replicas(2) == two
    with pytest.raises(PlanError, match="asked for 1 replicas, but the plan has 2"):
        anywhere(two, 1)


def test_the_largest_is_first_and_nothing_is_beyond_the_goal() -> None:
    one = GOAL.of_replicas(1)
    assert sizes(list(larger(one, GOAL, least=1))) == [(3, 2), (2, 2)]
    assert list(larger(GOAL, GOAL, least=1)) == []
    assert list(larger(anywhere(GOAL, 4), GOAL, least=1)) == []


def test_a_run_on_fewer_stages_goes_back_to_those_of_the_goal() -> None:
    assert sizes(list(larger(FEWER, GOAL, least=2))) == [(3, 2), (2, 2)]
    assert list(larger(GOAL, FEWER, least=1)) == []
