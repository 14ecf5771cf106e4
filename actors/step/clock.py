"""How long a rank waits in a step, and for whom; what is left is the time that it computed.

Of a step that is traced, also when each piece of work began and ended.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from actors.commands import Waits
from actors.device import Device, Mark
from moe.config.metrics import WAITS
from moe.planning.schedules.schedule import Action
from moe.planning.schedules.simulate import Event


class Clock:
    """Marks the waits of a step on the device, which are read when the device has done them.

    Outside of a step nothing is marked. A message that arrived in time costs what it takes to look.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._waits: list[tuple[str, Mark, Mark]] | None = None
        self._began: Mark | None = None
        self._pieces: list[tuple[Action, Mark, Mark]] = []

    def begin(self, traced: bool = False) -> None:
        """Begin a step, all work of which is noted where it is ``traced``."""
        self._waits = []
        self._pieces = []
        self._began = self._device.mark() if traced else None

    @contextmanager
    def waiting(self, whom: str) -> Iterator[None]:
        """Count the time in the block as waiting for ``whom``, one of ``WAITS``."""
        waits = self._waits
        if waits is None:
            yield
            return
        start = self._device.mark()
        yield
        waits.append((whom, start, self._device.mark()))

    @contextmanager
    def working(self, action: Action) -> Iterator[None]:
        """Note the block as one piece of work of a traced step."""
        if self._began is None:
            yield
            return
        start = self._device.mark()
        yield
        self._pieces.append((action, start, self._device.mark()))

    def events(self) -> tuple[Event, ...]:
        """Return the pieces of work of a traced step, all of which the device has done, in seconds
        since the rank began with it.
        """
        began = self._began
        if began is None:
            return ()
        between = self._device.between
        return tuple(
            Event(action, between(began, start), between(began, stop))
            for action, start, stop in self._pieces
        )

    def end(self) -> Waits:
        """End the step, all of which the device has done; return how long it waited."""
        waits, self._waits = self._waits or [], None
        seconds = dict.fromkeys(WAITS, 0.0)
        for whom, start, end in waits:
            seconds[whom] += self._device.between(start, end)
        return Waits(**seconds)
