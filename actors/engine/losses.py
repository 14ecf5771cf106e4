"""The losses of a run so far: how many count for its budget, and how often to expect one."""

import time
from collections.abc import Callable

from moe.planning.policy.interval import expected_seconds

Clock = Callable[[], float]


class Losses:
    """Moments at which ranks were lost; those within ``seconds`` count."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._began = clock()
        self._moments: list[float] = []

    def note(self) -> None:
        """Count a loss now."""
        self._moments.append(self._clock())

    @property
    def counted(self) -> int:
        """How many losses count now."""
        now = self._clock()
        return sum(now - moment < self._seconds for moment in self._moments)

    def expected_seconds(self) -> float:
        """Return the seconds expected from one loss to the next."""
        return expected_seconds(self._clock() - self._began, len(self._moments))
