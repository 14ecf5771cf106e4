"""What is known when a run has to decide: values that say who lives and what is left of whom.

``Shape`` is what a run is planned as: a ``Plan`` in a run, a number of devices in the simulator. No
decision looks inside it, so both are decided by the same function.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from moe.config.run.elastic import ElasticSection, Shrink
from moe.errors import PlanError
from moe.planning.plan.seats import Seat

Shape = TypeVar("Shape")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a living rank stands, once it has left the step that failed.

    ``steps_done`` of its live state, which is ``unharmed`` unless a step failed with some weights
    updated. ``copies``: steps of which it has a whole copy of its own. ``holds``: steps of which it
    has a whole copy of other seats.
    """

    steps_done: int
    unharmed: bool = True
    copies: frozenset[int] = frozenset()
    holds: Mapping[Seat, frozenset[int]] = field(default_factory=dict)

    @property
    def boundaries(self) -> frozenset[int]:
        """The steps after which this rank can stand: live, or from its own copy."""
        return self.copies | {self.steps_done} if self.unharmed else self.copies


@dataclass(frozen=True, slots=True)
class Limits:
    """What the run file allows.

    ``max_failures``: losses within the time of the budget that are mended. ``hang_seconds``: how
    long a rank may be silent. ``on_shrink``: what is given up first. ``move_seconds``: what it
    takes to move ranks off a node, as measured or predicted.
    """

    max_failures: int
    hang_seconds: float
    on_shrink: Shrink
    move_seconds: float = 0.0

    @classmethod
    def of(cls, elastic: ElasticSection, move_seconds: float) -> "Limits":
        """Return the limits of a run file."""
        return cls(elastic.max_failures, elastic.hang_seconds, elastic.on_shrink, move_seconds)


def _nothing(_: Shrink) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Situation(Generic[Shape]):
    """A run at the moment of a decision.

    ``shape``: what it is planned as, with one rank on each of ``seats``. ``living``: the ranks that
    answer and hold their state; ``late``: seconds since a rank last answered, for those that do not
    answer and whose process is not known to be dead. All other seats are lost, among them those
    whose replacement has not recovered yet. ``holders``: who held whose copy; empty without copies.

    ``room``: the seats among those lost, late or leaving for which processes can be started now,
    all of them together. ``smaller``: asked for what the run can be planned as over what is left,
    with fewer replicas (``shrinking``) or with fewer stages (a search); None where neither can be.

    ``together``: the living ranks are in the process groups of one epoch, so that a step that some
    have not done ends by itself when it is commanded again. ``failures``: losses within the time of
    the budget, the present one counted. ``checkpoint``: steps done in the newest whole checkpoint;
    0 is the state that the run began with. ``leaving``: seconds left to the seats of nodes that go.
    ``wish``: what the operator, or a run that follows its nodes, wants to be planned as.
    """

    shape: Shape
    seats: tuple[Seat, ...]
    living: Mapping[Seat, Standing]
    limits: Limits
    late: Mapping[Seat, float] = field(default_factory=dict)
    holders: Mapping[Seat, Seat] = field(default_factory=dict)
    room: frozenset[Seat] = frozenset()
    smaller: Callable[[Shrink], Shape | None] = _nothing
    together: bool = True
    failures: int = 0
    checkpoint: int = 0
    leaving: Mapping[Seat, float] = field(default_factory=dict)
    wish: Shape | None = None

    def __post_init__(self) -> None:
        known = set(self.seats)
        for what, named in (
            ("living", self.living),
            ("late", self.late),
            ("leaving", self.leaving),
        ):
            if not named.keys() <= known:
                strange = min(named.keys() - known)
                raise PlanError(f"{strange} is {what} but is no seat of the plan")
        if not self.living.keys().isdisjoint(self.late):
            both = min(self.living.keys() & self.late.keys())
            raise PlanError(f"{both} is living and late; give its standing or its silence")
        if not self.seats:
            raise PlanError("there is no seat to decide about; give those of the plan")

    @property
    def hung(self) -> tuple[Seat, ...]:
        """Seats that were silent for too long; their processes must be ended."""
        limit = self.limits.hang_seconds
        return tuple(seat for seat, seconds in sorted(self.late.items()) if seconds >= limit)

    @property
    def lost(self) -> tuple[Seat, ...]:
        """Seats that need a replacement: dead, or hung."""
        kept = self.living.keys() | set(self.unsettled)
        return tuple(seat for seat in self.seats if seat not in kept)

    @property
    def unsettled(self) -> tuple[Seat, ...]:
        """Seats that do not answer, not yet for so long that they count as lost."""
        limit = self.limits.hang_seconds
        return tuple(seat for seat, seconds in sorted(self.late.items()) if seconds < limit)
