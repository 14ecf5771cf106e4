"""How a run stands, in one line for who watches it: goodput, age of copies, warm processes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

HEALTH_SECONDS = 60.0
"""From one line to the next, while nothing happens to the run."""


@dataclass(frozen=True, slots=True)
class Health:
    """A run after ``step`` steps.

    ``goodput`` is the part of its time that went into steps that were kept, ``copy_age`` the steps
    since the newest whole copies, which a loss would cost now; None while there are none. So many
    warm ``spares`` can take the place of a rank.
    """

    step: int
    goodput: float | None
    copy_age: int | None
    spares: int

    @property
    def line(self) -> str:
        """The line for the terminal."""
        parts = [self._copies, f"{self.spares or 'no'} warm process{'es' * (self.spares > 1)}"]
        if self.goodput is not None:
            parts.insert(0, f"goodput {self.goodput:.1%}")
        return f"after step {self.step}: {', '.join(parts)}"

    @property
    def _copies(self) -> str:
        if self.copy_age is None:
            return "no whole copies"
        return f"copies {self.copy_age} step{'s' * (self.copy_age != 1)} old"


class HealthTimes:
    """When to tell how a run stands: once a minute, and soon after everything that happens."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = clock() + HEALTH_SECONDS

    def happened(self) -> None:
        """Tell after the next step."""
        self._next = self._clock()

    def due(self) -> bool:
        """Return whether to tell now; then it is not due for a while."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + HEALTH_SECONDS
        return True
