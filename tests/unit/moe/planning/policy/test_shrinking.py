"""Fewer replicas: as many as are left, of gangs that keep their shares and devices."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.planning.plan.plan import Plan, RankPlan, StagePlan
from moe.planning.plan.seats import Seat
from moe.planning.policy.shrinking import fewer_replicas
from moe.planning.stages.split import spans
from tests import plans


def replicated(replicas: int, stages: int, gang: int) -> Plan:
    """Return a plan whose devices have the names of their seats."""
    config = replace(plans.SMOLLM2, layers=stages, tie_embeddings=False)
    heads = spans((3,) if gang == 1 else (2, 1))
    columns = spans((1536,) if gang == 1 else (1024, 512))
    cuts = tuple(
        StagePlan(
            (stage, stage + 1),
            tuple(
                RankPlan(
                    tuple(str(Seat(replica, stage, member)) for replica in range(replicas)),
                    heads[member],
                    columns[member],
                    (),
                )
                for member in range(gang)
            ),
        )
        for stage in range(stages)
    )
    return Plan(config.summary(), cuts)


@pytest.mark.parametrize(
    ("gone", "kept"),
    [
        ([Seat(1, 0, 0)], [(0, 0), (0, 1)]),
        ([Seat(0, 1, 0)], [(1, 0), (1, 1)]),
        ([Seat(0, 0, 0), Seat(1, 1, 0)], [(1, 0), (0, 1)]),
        ([Seat(0, 0, 0), Seat(1, 0, 0)], None),
        ([], None),
    ],
)
def test_a_replica_is_put_together_from_gangs(
    gone: list[Seat], kept: list[tuple[int, int]] | None
) -> None:
    found = fewer_replicas(replicated(2, 2, 1), gone)
    if kept is None:
        assert found is None
    else:
        assert found is not None
        assert found.plan.replicas == 1
        assert [found.stays[Seat(0, stage, 0)] for stage in (0, 1)] == [
            Seat(replica, stage, 0) for replica, stage in kept
        ]


def test_a_gang_that_lost_a_member_goes_as_a_whole() -> None:
    found = fewer_replicas(replicated(3, 2, 2), [Seat(1, 0, 1), Seat(2, 1, 0)])
    assert found is not None
    assert found.plan.replicas == 2
    assert found.stays[Seat(0, 0, 0)] == Seat(0, 0, 0)
    assert {seat.replica for seat in found.stays.values() if seat.stage == 0} == {0, 2}
    assert {seat.replica for seat in found.stays.values() if seat.stage == 1} == {0, 1}


@given(
    replicas=st.integers(1, 4),
    stages=st.integers(1, 3),
    gang=st.integers(1, 2),
    data=st.data(),
)
def test_shares_and_devices_stay(
    replicas: int, stages: int, gang: int, data: st.DataObject
) -> None:
    plan = replicated(replicas, stages, gang)
    gone = data.draw(st.sets(st.sampled_from(list(plan.seats)), max_size=3))
    found = fewer_replicas(plan, gone)
    whole = [
        sum(gone.isdisjoint(plan.seats.of_stage(stage, each)) for each in range(replicas))
        for stage in range(stages)
    ]
    if not 0 < min(whole) < replicas:
        assert found is None
        return
    assert found is not None
    assert found.plan.replicas == min(whole)
    assert found.stays.keys() == set(found.plan.seats)
    assert len(set(found.stays.values())) == len(found.stays)
    assert gone.isdisjoint(found.stays.values())
    for new, old in found.stays.items():
        assert found.plan.rank(new).devices[new.replica] == str(old)
        assert found.plan.share(new) == plan.share(old)
    together = sum(
        len({found.stays[seat].replica for seat in found.plan.seats.of_replica(each)}) == 1
        for each in range(found.plan.replicas)
    )
    untouched = replicas - len({seat.replica for seat in gone})
    assert together >= min(untouched, found.plan.replicas)
