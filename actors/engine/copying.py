"""When ranks copy what they alone hold into each other's memory, and which copies are whole.

Training waits only while each rank copies within its own memory. The copies then travel beside the
next steps. The next copies wait until those before are whole everywhere, so one boundary that all
ranks share is always left.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.calls import Answer, over
from actors.commands import CopyReport
from actors.engine.losses import Losses
from actors.engine.meeting import Meeting
from moe.config.run.elastic import ElasticSection
from moe.planning.plan.seats import Seat
from moe.planning.policy.holders import holders
from moe.planning.policy.interval import save_every


@dataclass(frozen=True, slots=True)
class Copied:
    """Copies of all ranks that are whole, as of ``step``.

    Training waited ``stall_seconds``; ``seconds`` later the last had arrived. ``bytes`` travelled
    in all. The next copies are due ``every`` steps later.
    """

    step: int
    stall_seconds: float
    seconds: float
    bytes: int
    every: int


@dataclass(slots=True)
class _Pending:
    step: int
    began: float
    stall_seconds: float
    answers: Mapping[Seat, Answer]


class Copying:
    """Takes the copies of the ranks of one plan, as often as the run file says."""

    def __init__(self, meeting: Meeting, elastic: ElasticSection, losses: Losses) -> None:
        self._meeting = meeting
        self._elastic = elastic
        self._losses = losses
        self._pending: _Pending | None = None
        self._newest: Copied | None = None
        self._due = 0

    @property
    def holders(self) -> Mapping[Seat, Seat]:
        """Who holds whose copy; nobody where the run keeps no copies, or has one rank."""
        return (holders(self._meeting.crew.nodes()) or {}) if self._elastic.copies else {}

    @property
    def newest(self) -> Copied | None:
        """The copies that became whole last."""
        return self._newest

    def forget(self) -> None:
        """Give up what is under way, as after a loss; the next step is followed by new copies."""
        self._pending, self._due = None, 0

    def after(self, step: int, step_seconds: float) -> Copied | None:
        """Take copies where they are due after a step; return those that have become whole since.

        Raises what went wrong with those under way.
        """
        arrived = self._arrived(step_seconds)
        if self._pending is None and step >= self._due and self.holders:
            self.take(step)
        return arrived

    def take(self, step: int, within: float = math.inf) -> _Pending:
        """Have every rank copy what it holds after a step, and begin to send the copies."""
        began = time.monotonic()
        seconds = min(self._meeting.deadlines.command, within)
        self._meeting.gather(self._meeting.tell("copy", step), "copying", seconds)
        stall = time.monotonic() - began
        answers = self._meeting.tell("exchange_copies", step, self.holders)
        pending = self._pending = _Pending(step, began, stall, answers)
        return pending

    def whole(self, step: int, seconds: float) -> None:
        """Take copies and wait until they are whole, where the run keeps any."""
        if self.holders:
            pending = self.take(step, seconds)
            self._settled(pending, 0.0, max(seconds - pending.stall_seconds, 0.0))

    def _arrived(self, step_seconds: float) -> Copied | None:
        pending = self._pending
        if pending is None or not over(pending.answers.values()):
            return None
        return self._settled(pending, step_seconds, self._meeting.deadlines.command)

    def _settled(self, pending: _Pending, step_seconds: float, seconds: float) -> Copied:
        self._pending = None
        doing = f"sending copies of step {pending.step}"
        reports: Sequence[CopyReport] = self._meeting.gather(pending.answers, doing, seconds)
        hidden = max(report.seconds for report in reports)
        every = self._interval(pending.stall_seconds, hidden, step_seconds)
        self._due = pending.step + every
        size = sum(report.sent for report in reports)
        self._newest = Copied(pending.step, pending.stall_seconds, hidden, size, every)
        return self._newest

    def _interval(self, stall: float, hidden: float, step_seconds: float) -> int:
        every = self._elastic.copy_every
        if every != "auto":
            return every
        if not step_seconds:
            return 1  # once a step under this plan is known, the interval is
        return save_every(stall, hidden, step_seconds, self._losses.expected_seconds())
