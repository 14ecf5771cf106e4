"""Work as it is counted: FLOPs and bytes of a pass forward, and of one backward."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs, and bytes moved in addition to the operands of products."""

    flops: float
    bytes: float

    def plus(self, other: "Work") -> "Work":
        """Return the sum."""
        return Work(self.flops + other.flops, self.bytes + other.bytes)


NO_WORK = Work(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Passes:
    """The work of one micro-batch on a rank, forward and backward."""

    forward: Work
    backward: Work = NO_WORK

    @property
    def flops(self) -> float:
        """FLOPs of both."""
        return self.forward.flops + self.backward.flops

    @property
    def bytes(self) -> float:
        """Bytes of both."""
        return self.forward.bytes + self.backward.bytes

    def plus(self, other: "Passes") -> "Passes":
        """Return the sum."""
        return Passes(self.forward.plus(other.forward), self.backward.plus(other.backward))
