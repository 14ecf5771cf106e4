"""A change of plan at a step boundary, while the processes that stay keep running.

    new processes    beside the old ones, where the new plan has seats that nobody takes
    moved            each share of the new plan is made beside the old one
    joined           all take their new shares and meet; the old shares are kept
    copied           each new share has a copy with a peer
    -- from here on the new plan holds: the old shares are dropped, processes without a seat end --

Whatever fails before that line is undone: every rank goes back to its old share, which nothing has
changed, and the new processes end. What fails after it is a loss under the new plan, and each lost
rank has a copy.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.commands import BuildCommand, RankStatus
from actors.crew.arming import arm, tell_armed
from actors.crew.crew import Crew
from actors.engine.copying import Copying
from actors.engine.healing import Making, Phases, stands
from actors.engine.joint import Joint
from actors.engine.losses import Losses
from actors.engine.meeting import Meeting
from actors.engine.party import Party
from actors.moving.transfer import Moved, Place, Transfer
from actors.step.replicas import check_step
from moe.errors import DeadlineExceeded, PlanError, RankLost, RaymoeError
from moe.planning.moves import messages
from moe.planning.moves.seating import Seating
from moe.planning.moves.staying import staying
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """To ``plan`` at the boundary after ``step`` steps.

    The processes on ``away`` do not stay. ``gives`` says for each lost seat who holds its copy.
    """

    plan: Plan
    step: int
    reason: str
    away: frozenset[Seat] = frozenset()
    gives: Mapping[Seat, Seat] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resized:
    """The run goes on under another plan after ``step`` steps.

    ``bytes`` of tensors moved between processes, as many as the plans had predicted. So many
    processes were ``kept``, ``started`` and ``ended``. ``seconds`` of each part, in their order.
    """

    step: int
    plan: Plan
    bytes: int
    kept: int
    started: int
    ended: int
    reason: str
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The old plan goes on. Where ``disturbed``, its ranks must recover before the next step."""

    reason: str
    disturbed: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """What commands the ranks of the new plan, and what was done."""

    meeting: Meeting
    copying: Copying
    resized: Resized


class Resizing:
    """Changes the plan of a run: once for each meeting."""

    def __init__(self, meeting: Meeting, making: Making, losses: Losses) -> None:
        self._old = meeting
        self._making = making
        self._losses = losses
        self._new: Crew | None = None
        self._parties: list[Party[Any]] = []
        self._disturbed = False
        self._phases = Phases()
        self._deadline = 0.0

    def carry_out(self, change: Change) -> Changed | Unchanged:
        """Do all that can be undone, or leave everything as it was; ``commit`` must follow."""
        try:
            return self._prepared(change)
        except BaseException as error:
            self._undo(change.step)
            if isinstance(error, RaymoeError):
                return Unchanged(str(error), self._disturbed)
            raise

    def commit(self, changed: Changed) -> None:
        """Drop the old shares, and end the processes that have no seat any more."""
        meeting, step = changed.meeting, changed.resized.step
        meeting.tell("forget")
        tell_armed(meeting.crew, self._making.faults, step)
        _leave(self._old.crew, meeting.crew)
        self._phases.end("ended")

    def _prepared(self, change: Change) -> Changed:
        old, plan, train = self._old, change.plan, self._making.run.train
        check_step(plan, train.schedule, train.micro_batches)
        if train.orthogonal is not None:
            raise PlanError(
                "the projectors of train.orthogonal do not move between living ranks; stop the run "
                "and resume its last checkpoint under the other plan"
            )
        seen = old.statuses()
        before = self._seating(change, seen)
        new = self._new = old.crew.becoming(plan, before.stays, old.deadlines.launch)
        self._deadline = time.monotonic() + self._making.run.elastic.resize_seconds
        fresh = [seat for seat in plan.seats if seat not in before.stays]
        arm(new, self._making.faults, change.step, old.deadlines.group, fresh)
        self._phases.end("process")
        moves = self._moves(change, before, new)
        self._disturbed = True
        self._move(change, moves, new)
        meeting, copying = self._met(change, new)
        return Changed(meeting, copying, self._done(change, before, moves))

    def _done(self, change: Change, before: Seating, moves: messages.Resize) -> Resized:
        old, plan, kept = self._old.plan, change.plan, len(before.stays)
        return Resized(
            step=change.step,
            plan=plan,
            bytes=moves.difference.bytes,
            kept=kept,
            started=len(plan.seats) - kept,
            ended=len(old.seats) - len(before.lost) - kept,
            reason=change.reason,
            seconds=self._phases.seconds,
        )

    def _seating(self, change: Change, seen: Mapping[Seat, RankStatus]) -> Seating:
        """Return who stays where, who is lost, and who gives from copies."""
        old, config = self._old, self._making.blank.architecture
        living = [seat for seat, status in seen.items() if stands(status)]
        nodes = old.crew.nodes()
        free = {seat: nodes[seat] for seat in living if seat not in change.away}
        if change.plan == old.plan:
            stays = {seat: seat for seat in free}
        else:
            stays = staying(config, old.plan, change.plan, self._making.workload, free)
        back = (seat for seat in living if seen[seat].torn or seen[seat].step != change.step)
        copied = {**change.gives, **{seat: seat for seat in back}}
        lost = frozenset(seat for seat in old.plan.seats if seat not in living)
        return Seating(stays, lost, nodes, {}, copied)

    def _moves(self, change: Change, before: Seating, new: Crew) -> messages.Resize:
        config = self._making.blank.architecture
        seating = Seating(before.stays, before.lost, before.old_nodes, new.nodes(), before.copied)
        return messages.resize(config, self._old.plan, change.plan, self._making.workload, seating)

    def _move(self, change: Change, moves: messages.Resize, new: Crew) -> None:
        """Have every process do its part; each then holds its new share beside the old one."""
        old, making = self._old, self._making
        party = Party(Joint(moves.parts, old.crew, new), old.deadlines)
        self._parties.append(party)
        seats, name = party.crew.seats, f"{old.run}/resize-{old.epoch}-{change.step}"
        first = seats.seat(0)
        opened = {first: party.crew.tell(first, "open_store", self._left)}
        ((host, port),) = party.gather(opened, "opening the store of a change of plan", self._left)
        place = Place(name, host, port, len(seats), self._left)

        def command(seat: Seat | None) -> BuildCommand | None:
            if seat is None:
                return None
            return BuildCommand(change.plan, seat, making.sequence_length, making.run)

        config = making.blank.architecture
        transfers = {
            seats.seat(part.number): Transfer(change.step, place, part, config, command(part.new))
            for part in moves.parts
        }
        answers = party.tell_each("move", transfers)
        reports: list[Moved] = party.gather(answers, "a change of plan", self._left)
        _check_bytes(moves, reports)
        self._phases.end("moved")

    def _met(self, change: Change, new: Crew) -> tuple[Meeting, Copying]:
        """Have the ranks take their new shares, meet, and copy them to each other."""
        old = self._old
        meeting = Meeting(old.run, change.plan, new, old.deadlines)
        self._parties.append(meeting)
        meeting.epoch = old.epoch
        meeting.gather(meeting.tell("become"), "taking the shares of another plan", self._left)
        old.epoch += 1
        meeting.begin(self._left)
        self._phases.end("joined")
        copying = Copying(meeting, self._making.run.elastic, self._losses)
        copying.whole(change.step, self._left)
        self._phases.end("copied")
        return meeting, copying

    def _undo(self, step: int) -> None:
        """Have every rank go back to its old share, and end the new processes.

        Nobody waits for the ranks here: one may hang. They do it before what they are told next.
        One that is known to hang ends now: others wait for its messages, and to find out once more
        would take as long again.
        """
        if self._new is None:
            return
        for party in self._parties:
            party.end_hung()
        if self._disturbed:
            self._old.tell("revert")
            tell_armed(self._old.crew, self._making.faults, step)
        _leave(self._new, self._old.crew)

    @property
    def _left(self) -> float:
        """Seconds left; DeadlineExceeded where there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(
                f"the change of plan took longer than {self._making.run.elastic.resize_seconds:g} "
                "s; raise elastic.resize_seconds"
            )
        return left


def _leave(crew: Crew, other: Crew) -> None:
    """End the processes that only one crew has; training goes on also where some do not end."""
    try:
        crew.leave_to(other)
    except RaymoeError as error:
        logger.warning("the end of the run tries again: %s", error)


def _check_bytes(moves: messages.Resize, reports: list[Moved]) -> None:
    """Raise RankLost where a process did not move what the plans predict."""
    for part, moved in zip(moves.parts, reports, strict=True):
        if (moved.sent_bytes, moved.received_bytes) != (part.sent_bytes, part.received_bytes):
            raise RankLost(
                f"process {part.number} of a change of plan sent {moved.sent_bytes} bytes and "
                f"received {moved.received_bytes}, predicted were {part.sent_bytes} and "
                f"{part.received_bytes}; the driver and its ranks do not agree on the plans"
            )
