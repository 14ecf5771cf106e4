"""Seats: where the actors of a plan sit, and the one rule that numbers them.

Global ranks count seats replica by replica, stage by stage, member by member. This file alone knows
that order; everybody else names a seat.

    Seats(replicas=2, stages=3, gang=2)      rank 7 is Seat(replica=1, stage=0, member=1)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from moe.errors import PlanError


@dataclass(frozen=True, slots=True, order=True)
class Seat:
    """Where one rank sits: its replica, its pipeline stage, its member number in the gang."""

    replica: int
    stage: int
    member: int

    def __str__(self) -> str:
        return f"replica {self.replica} stage {self.stage} member {self.member}"


@dataclass(frozen=True, slots=True)
class Seats:
    """All seats of ``replicas`` pipelines of ``stages`` gangs of ``gang`` ranks each.

    Iteration yields the seats in the order of their global ranks.
    """

    replicas: int
    stages: int
    gang: int

    def __len__(self) -> int:
        return self.replicas * self.stages * self.gang

    def __iter__(self) -> Iterator[Seat]:
        return (self.seat(rank) for rank in range(len(self)))

    def check(self, seat: Seat) -> None:
        """Raise PlanError where there is no such seat."""
        if seat not in self:
            raise PlanError(
                f"asked for {seat} of {self.replicas} replicas x {self.stages} stages x "
                f"{self.gang} members; count each from 0"
            )

    def seat(self, rank: int) -> Seat:
        """Return the seat of a global rank; PlanError where there is no such rank."""
        if not 0 <= rank < len(self):
            raise PlanError(f"asked for rank {rank} of {len(self)}; count ranks from 0")
        pipeline, member = divmod(rank, self.gang)
        replica, stage = divmod(pipeline, self.stages)
        return Seat(replica, stage, member)

    def rank(self, seat: Seat) -> int:
        """Return the global rank of a seat; PlanError where there is no such seat."""
        self.check(seat)
        return (seat.replica * self.stages + seat.stage) * self.gang + seat.member

    def __contains__(self, seat: object) -> bool:
        return isinstance(seat, Seat) and (
            0 <= seat.replica < self.replicas
            and 0 <= seat.stage < self.stages
            and 0 <= seat.member < self.gang
        )

    def of_replica(self, replica: int) -> tuple[Seat, ...]:
        """Return the seats of one pipeline, in the order of their ranks."""
        stages = (self.of_stage(stage, replica) for stage in range(self.stages))
        return tuple(chain.from_iterable(stages))

    def of_stage(self, stage: int, replica: int = 0) -> tuple[Seat, ...]:
        """Return the seats of one gang: a stage of one replica, all members."""
        return tuple(Seat(replica, stage, member) for member in range(self.gang))

    def gang_of(self, seat: Seat) -> tuple[Seat, ...]:
        """Return the seats of a seat's gang: its stage of its replica, all members."""
        return self.of_stage(seat.stage, seat.replica)

    def data_group_of(self, seat: Seat) -> tuple[Seat, ...]:
        """Return the same stage and member of every replica: the data-parallel group."""
        return tuple(replace(seat, replica=replica) for replica in range(self.replicas))
