"""The ranks of one plan as one party: commands to all of them, and the epochs in which they meet.

What the answers mean is decided in ``actors.engine.statuses``; here it is done.
"""

import math
import time
from collections.abc import Iterable

from actors.commands import BuildCommand, RankStatus
from actors.crew.crew import Crew
from actors.deadlines import Deadlines
from actors.engine.party import Party
from actors.engine.statuses import Settling
from actors.epochs.membership import Membership
from actors.state.sources import Source
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

POLL_SECONDS = 0.1


class Meeting(Party[Crew]):
    """All ranks of a run; ``epoch`` is the last that this driver has begun or found.

    Holds nothing that the ranks could not tell another meeting, so a driver that dies is replaced
    by one that meets the same ranks.
    """

    def __init__(self, run: str, plan: Plan, crew: Crew, deadlines: Deadlines) -> None:
        super().__init__(crew, deadlines)
        self.plan = plan
        self.epoch = 0
        self.run = run

    def status(self, seconds: float | None = None) -> list[RankStatus]:
        """Return what every rank holds now, also while a step runs."""
        deadline = self.deadlines.group if seconds is None else seconds
        return self.ask(self.tell("status"), "the answer to status", deadline)

    def start(self, source: Source, sequence_length: int, run: RunConfig | None) -> None:
        """Build every rank from a source and begin the first epoch; on failure end all ranks."""
        try:
            self.plan.check_model(source.config())
            self.build(source, sequence_length, run, self.crew.seats)
            self.begin()
        except BaseException:
            self.end()
            raise

    def build(
        self, source: Source, sequence_length: int, run: RunConfig | None, seats: Iterable[Seat]
    ) -> None:
        """Have the ranks of some seats build their shares of the model from a source."""
        answers = {
            seat: self.crew.tell(
                seat, "build", BuildCommand(self.plan, seat, sequence_length, run), source
            )
            for seat in seats
        }
        self.gather(answers, "building", self.deadlines.launch)

    def begin(self, within: float = math.inf) -> None:
        """Have all ranks meet under the next epoch; rank 0 opens the store where they do.

        It takes no longer than the deadlines allow, nor than ``within`` seconds.
        """
        self.epoch += 1
        seats, seconds = self.crew.seats, min(self.deadlines.group, within)
        first = seats.seat(0)
        opened = {first: self.crew.tell(first, "open_store", seconds)}
        ((host, port),) = self.ask(opened, "opening the store", seconds)
        homes = self.plan.homes
        memberships = {
            seat: Membership(self.run, self.epoch, seat, seats, homes, host, port, seconds)
            for seat in seats
        }
        answers = self.tell_each("join", memberships)
        launch = min(self.deadlines.launch, within)
        self.gather(answers, f"joining epoch {self.epoch}", launch)

    def settle(self) -> None:
        """Let ranks end what they do.

        A step that all ranks are in is finished. Other ranks in a step wait for those that are not,
        whose driver died before it had commanded them: their step is given up.
        """
        settling = Settling(time.monotonic(), self.deadlines.group)
        while settling.waits(list(self.statuses().values()), time.monotonic()):
            time.sleep(POLL_SECONDS)

    def end(self) -> None:
        """End every rank."""
        self.crew.end()
