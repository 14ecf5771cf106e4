"""Whether ranks that work on a command still answer at all.

A rank may be long at a step; its process answers a question about its status beside it. One that is
stopped, or whose machine is gone without a word, does not.
"""

import time
from collections.abc import Mapping

from actors.calls import Answer
from actors.crew.crew import Commanded
from moe.planning.plan.seats import Seat

BEATS = 4
"""Questions in the time after which a silent rank counts as hung."""


class Pulse:
    """Asks every rank now and then, and knows since when each has not answered.

    ``seconds`` is the silence after which a rank hangs. Nothing is asked between two beats, so a
    step that is shorter than ``every`` costs nothing.
    """

    def __init__(self, crew: Commanded, seconds: float) -> None:
        self.seconds = seconds
        self._crew = crew
        self._asked: dict[Seat, tuple[float, Answer]] = {}
        self._beaten = time.monotonic()
        self._found: set[Seat] = set()

    @property
    def every(self) -> float:
        """Seconds from one beat to the next."""
        return self.seconds / BEATS

    def beat(self) -> None:
        """Ask those that have answered.

        After a pause it asks all anew, for the reason that ``hung`` tells.
        """
        now = time.monotonic()
        if self._paused:
            self._asked.clear()
        self._beaten = now
        silent = self.silent()
        for seat in self._crew.seats:
            if seat not in silent:
                self._asked[seat] = now, self._crew.tell(seat, "status")

    def silent(self) -> Mapping[Seat, float]:
        """Return for how many seconds each rank has not answered; those that have are left out."""
        now = time.monotonic()
        return {seat: now - at for seat, (at, answer) in self._asked.items() if not answer.done()}

    def hung(self) -> list[Seat]:
        """Return the ranks that have been silent for too long.

        After a pause between two beats no more are found, as where the driver was stopped itself:
        the answers may be there and unread.
        """
        silent = self.silent()
        if not self._paused:
            self._found = {seat for seat, seconds in silent.items() if seconds >= self.seconds}
        return [seat for seat in silent if seat in self._found]

    @property
    def _paused(self) -> bool:
        return time.monotonic() - self._beaten > 2 * self.every
