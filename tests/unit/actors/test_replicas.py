"""A plan of several replicas is refused before anything starts."""

from dataclasses import replace

import pytest

from actors.replicas import check_replicas
from moe.errors import PlanError
from moe.planning.plan import Plan
from tests import plans


@pytest.fixture
def twice() -> Plan:
    plan = plans.single(plans.SMOLLM2)
    stage = plan.stages[0]
    ranks = tuple(replace(rank, devices=("a/0", "b/0")) for rank in stage.ranks)
    return replace(plan, stages=(replace(stage, ranks=ranks),))


def test_one_replica_passes_and_two_do_not(twice: Plan) -> None:
    check_replicas(plans.single(plans.SMOLLM2))
    with pytest.raises(PlanError, match="has 2 replicas of its pipeline; actors train and serve"):
        check_replicas(twice)
