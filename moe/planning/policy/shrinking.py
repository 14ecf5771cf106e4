"""A plan of fewer replicas over the gangs that are left, of which no rank changes its share.

Every replica has the same stages, so a replica can be put together from gangs of several: a run is
left with as many replicas as its rarest stage has whole gangs. Gangs of one replica stay together
where they can. Gangs that are over are not used.

    replica 0:  stage 0 lost    stage 1
    replica 1:  stage 0         stage 1 lost     one replica: stage 0 of 1, stage 1 of 0
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from moe.planning.plan.plan import Plan, StagePlan
from moe.planning.plan.seats import Seat


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A plan over what is left; ``stays`` says for each of its seats who sat where before."""

    plan: Plan
    stays: Mapping[Seat, Seat]


def fewer_replicas(plan: Plan, gone: Collection[Seat]) -> Shrunk | None:
    """Return the most replicas of a plan without the seats that are gone.

    None where nothing is gone, or not one replica is left.
    """
    kept = _kept(plan, frozenset(gone))
    count = len(kept[0])
    if not 0 < count < plan.replicas:
        return None
    stages = tuple(_of(stage, kept[number]) for number, stage in enumerate(plan.stages))
    shrunk = replace(plan, stages=stages)
    stays = {seat: replace(seat, replica=kept[seat.stage][seat.replica]) for seat in shrunk.seats}
    return Shrunk(shrunk, stays)


def _kept(plan: Plan, gone: frozenset[Seat]) -> tuple[tuple[int, ...], ...]:
    """Return for each stage the old replicas whose gangs go on, in their new order."""
    stages = range(len(plan.stages))
    left = [
        [
            replica
            for replica in range(plan.replicas)
            if gone.isdisjoint(plan.seats.of_stage(stage, replica))
        ]
        for stage in stages
    ]
    whole = set.intersection(*map(set, left))
    count = min(map(len, left))
    return tuple(
        tuple(sorted(gangs, key=lambda replica: (replica not in whole, replica))[:count])
        for gangs in left
    )


def _of(stage: StagePlan, replicas: tuple[int, ...]) -> StagePlan:
    ranks = tuple(
        replace(rank, devices=tuple(rank.devices[replica] for replica in replicas))
        for rank in stage.ranks
    )
    return replace(stage, ranks=ranks)
