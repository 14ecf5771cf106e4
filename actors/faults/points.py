"""The named points of a rank's process, where a fault that is armed happens.

A process that has nothing armed asks whether a tuple is empty, once for each pass of a
micro-batch and a few times a step, and never in a layer.
"""

import logging
import signal
import threading
from collections.abc import Iterable

from actors.faults.armed import Armed
from moe.config.fault import Fault, Phase

_LOG = logging.getLogger(__name__)


class Points:
    """What is armed in one process. Any thread of the process may reach a point."""

    def __init__(self) -> None:
        self._armed: tuple[Armed, ...] = ()

    def arm(self, armed: Iterable[Armed]) -> None:
        """Have these faults happen, and no others: what was armed before is forgotten."""
        self._armed = tuple(each for each in armed if not each.spent)

    def reach(self, phase: Phase, step: int) -> None:
        """Have the first fault happen that is armed for a phase, with ``step`` steps done."""
        if self._armed:
            self._reach(phase, step)

    def _reach(self, phase: Phase, step: int) -> None:
        for each in self._armed:
            # The driver arms a start fault only where it is due: at its start a process knows no
            # step.
            due = phase == "start" or each.fault.step <= step
            if each.fault.phase == phase and due and each.take():
                self._armed = tuple(other for other in self._armed if other is not each)
                _happen(each.fault)
                return


POINTS = Points()
"""Those of this process: a process hosts one rank."""


def _happen(fault: Fault) -> None:
    """Kill or stop this process, or raise what a device might."""
    _LOG.warning("fault %s happens", fault)
    if fault.kind == "raise":
        raise RuntimeError(f"fault {fault}")
    # To the thread: a signal to the process may reach another thread first, and this one goes on.
    number = signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP
    signal.pthread_kill(threading.get_ident(), number)
