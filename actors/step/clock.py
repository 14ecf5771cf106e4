"""How long a rank waits in a step, and for whom; what is left is the time that it computed."""

from collections.abc import Iterator
from contextlib import contextmanager

from actors.commands import Waits
from actors.device import Device, Mark
from moe.config.metrics import WAITS


class Clock:
    """Marks the waits of a step on the device, which are read when the device has done them.

    Outside of a step nothing is marked. A message that arrived in time costs what it takes to look.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._waits: list[tuple[str, Mark, Mark]] | None = None

    def begin(self) -> None:
        """Begin a step."""
        self._waits = []

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

    def end(self) -> Waits:
        """End the step, all of which the device has done; return how long it waited."""
        waits, self._waits = self._waits or [], None
        seconds = dict.fromkeys(WAITS, 0.0)
        for whom, start, end in waits:
            seconds[whom] += self._device.between(start, end)
        return Waits(**seconds)
