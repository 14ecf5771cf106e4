"""Where one rank stands in one epoch of a run. A value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Membership:
    """One rank's place in one epoch of a run; rank = (replica * stages + stage) * gang + member.

    ``ends`` are the stages with the embedding and with the head. ``host`` and ``port`` lead to the
    store of rank 0, ``seconds`` bounds every wait of a group.
    """

    run: str
    epoch: int
    rank: int
    replicas: int
    stages: int
    gang: int
    ends: tuple[int, int]
    host: str
    port: int
    seconds: float

    @property
    def name(self) -> str:
        """Prefix of the names of this epoch's process groups."""
        return f"{self.run}/epoch-{self.epoch}"

    @property
    def world(self) -> int:
        """Number of ranks of all replicas."""
        return self.replicas * self.stages * self.gang

    @property
    def replica(self) -> int:
        """Replica of this rank."""
        return self.rank // (self.stages * self.gang)

    @property
    def stage(self) -> int:
        """Stage of this rank."""
        return self.rank // self.gang % self.stages

    @property
    def member(self) -> int:
        """Place of this rank in its gang."""
        return self.rank % self.gang

    def at(
        self, replica: int | None = None, stage: int | None = None, member: int | None = None
    ) -> int:
        """Return the rank of another place; what is not given is this rank's own."""
        replica = self.replica if replica is None else replica
        stage = self.stage if stage is None else stage
        member = self.member if member is None else member
        return (replica * self.stages + stage) * self.gang + member
