"""What an engine does about a loss: it looks, has ``decide`` decide, and carries that out.

Survivors keep their processes and what they hold. A lost rank is a new process that receives the
copy of what was lost; the others go back to the same boundary, and the steps since are done again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from actors.commands import RankStatus, Recovery
from actors.crew.arming import arm
from actors.engine.meeting import Meeting
from actors.faults.armed import NO_FAULTS, FaultPlan
from actors.state.sources import Blank
from moe.config.run import RunConfig
from moe.config.run.elastic import Shrink
from moe.errors import LaunchError
from moe.planning.counts.workload import Workload
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.policy.decision import Decision, GoOn, Heal, Stop, Wait, decide
from moe.planning.policy.situation import Limits, Situation, Standing

WAIT_SECONDS = 0.5
"""Between two looks, where there is nothing to do yet."""


@dataclass(frozen=True, slots=True)
class Making:
    """What ranks are made from: the run, the tokens of a sequence of a step, the faults to suffer.

    A replacement is made from ``blank``: the architecture and the rules of products.
    """

    run: RunConfig
    blank: Blank
    sequence_length: int
    faults: FaultPlan = NO_FAULTS

    @property
    def workload(self) -> Workload:
        """The work of a step, of which moves ask how many bytes an element has."""
        train = self.run.train
        return Workload.of_run(train, self.sequence_length, train.micro_batches, gpus=False)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a decision depends on besides the ranks.

    ``checkpoint``: steps done in the newest; 0 for the model that the run began with. ``failures``:
    losses that count, the present one among them. ``patient``: leave ranks in the middle of a step
    that all were told the time to end it, as where the driver alone was lost. ``room``: whether
    processes that are lost may find room; False where a launch has just found none. ``wanted`` is
    asked while there is nothing to do but wait: a run that nobody wants any more stops. ``waits``
    is told why there is nothing else to do. ``smaller`` returns a plan over what is left without
    some seats. ``wish`` is the plan that somebody wants, ``leaving`` the seconds left to the seats
    of nodes that go. ``planned`` is told a new plan at the moment from which it holds.
    """

    checkpoint: int
    failures: int
    patient: bool = False
    room: bool = True
    wanted: Callable[[], bool] = lambda: True
    waits: Callable[[str], object] = lambda _: None
    smaller: Callable[[Shrink, frozenset[Seat]], Plan | None] = lambda _, __: None
    wish: Plan | None = None
    leaving: Mapping[Seat, float] = field(default_factory=dict)
    planned: Callable[[Plan], object] = lambda _: None


@dataclass(slots=True)
class Phases:
    """The seconds of each part of a recovery, in their order: a stop watch."""

    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    def end(self, phase: str) -> None:
        """Note that a part has ended now; one that comes again, as after a wait, adds up."""
        elapsed = time.monotonic() - self.began
        before = self.seconds.get(phase, 0.0)
        self.seconds[phase] = before + elapsed - sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Healed:
    """All ranks stand together after ``step`` steps; those ``replaced`` are new processes."""

    step: int
    replaced: tuple[int, ...]
    reason: str
    seconds: Mapping[str, float]


class Healing:
    """Mends the ranks of one plan."""

    def __init__(self, meeting: Meeting, making: Making) -> None:
        self._meeting = meeting
        self._making = making

    def recover(
        self, around: Surroundings, holders: Mapping[Seat, Seat]
    ) -> Healed | Decision[Plan]:
        """Have the ranks go on together, or return what to do where they cannot.

        Raises what goes wrong meanwhile; it may be called again then, and begins anew.
        """
        try:
            return self._recovered(around, holders)
        finally:
            self._meeting.crew.want(())

    def _recovered(
        self, around: Surroundings, holders: Mapping[Seat, Seat]
    ) -> Healed | Decision[Plan]:
        phases, room = Phases(), around.room
        if around.patient:
            self._meeting.settle()
        while True:
            seen = self._meeting.look()
            phases.end("seen")
            situation = self._situation(seen, around, holders, room)
            decision = decide(situation)
            phases.end("decided")
            if isinstance(decision, Wait):
                if not around.wanted():
                    return Stop(f"{decision.reason}; the run is no longer wanted")
                around.waits(decision.reason)
                self._meeting.crew.want([seat for seat in situation.seats if seat not in seen])
                time.sleep(WAIT_SECONDS)
                room = True
            elif isinstance(decision, GoOn):
                self._meeting.begin()
                phases.end("joined")
                return Healed(_step_of(seen), (), decision.reason, phases.seconds)
            elif isinstance(decision, Heal):
                try:
                    return self._heal(decision, phases)
                except LaunchError:
                    if not room:
                        raise
                    room = False
            else:
                return decision

    def consider(self, around: Surroundings, room: bool, move_seconds: float) -> Decision[Plan]:
        """Decide between two steps, where no rank is known to be lost, about nodes and wishes.

        ``move_seconds`` is what it takes to move ranks off a node that goes.
        """
        situation = self._situation(self._meeting.statuses(), around, {}, room)
        limits = Limits.of(self._making.run.elastic, move_seconds)
        return decide(replace(situation, together=True, limits=limits))

    def _situation(
        self,
        seen: Mapping[Seat, RankStatus],
        around: Surroundings,
        holders: Mapping[Seat, Seat],
        room: bool,
    ) -> Situation[Plan]:
        seats = tuple(self._meeting.plan.seats)
        living = {seat: _standing(own) for seat, own in seen.items() if stands(own)}
        gone = frozenset({*seats} - living.keys()) | around.leaving.keys()
        return Situation(
            shape=self._meeting.plan,
            seats=seats,
            living=living,
            limits=Limits.of(self._making.run.elastic, 0.0),
            holders=holders,
            room=frozenset(seats) if room else frozenset(),
            smaller=lambda how: around.smaller(how, gone),
            together=False,
            failures=around.failures,
            checkpoint=around.checkpoint,
            leaving=around.leaving,
            wish=around.wish,
        )

    def _heal(self, decision: Heal, phases: Phases) -> Healed:
        """Carry out: new processes without values, a new epoch, and all at one boundary."""
        meeting, lost = self._meeting, tuple(decision.gives)
        for seat in decision.ends:
            meeting.crew.kill(seat)
        if lost:
            meeting.crew.replace(lost, meeting.deadlines.launch)
            phases.end("process")
            self._build(lost, decision.step)
            phases.end("built")
        meeting.begin()
        phases.end("joined")
        answers = meeting.tell("recover", Recovery(decision.step, decision.gives))
        meeting.gather(answers, f"going back to step {decision.step}", meeting.deadlines.command)
        phases.end("copied")
        ranks = tuple(meeting.plan.seats.rank(seat) for seat in lost)
        return Healed(decision.step, ranks, decision.reason, phases.seconds)

    def _build(self, lost: tuple[Seat, ...], step: int) -> None:
        """Give new processes their faults and their shares, without values."""
        meeting, making = self._meeting, self._making
        arm(meeting.crew, making.faults, step, meeting.deadlines.group, lost)
        meeting.build(making.blank, making.sequence_length, making.run, lost)


def stands(status: RankStatus) -> bool:
    """Tell whether a rank has a state to stand at; a replacement has none before it recovered."""
    return status.built and bool(status.copies or not status.torn)


def _standing(status: RankStatus) -> Standing:
    return Standing(status.step, not status.torn, status.copies, status.holds)


def _step_of(seen: Mapping[Seat, RankStatus]) -> int:
    return min(status.step for status in seen.values())
