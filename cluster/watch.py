"""Ray's nodes over time: which are there, which have joined or died, which are told to leave.

Ray calls nobody back when its nodes change, so a thread asks twice a second and whoever works reads
what it saw last. A node is told to leave by whoever takes it away: the autoscaler, an operator, or
``ray start`` on the node itself when it gets SIGTERM, as it does when Kubernetes deletes its pod.
Ray ends nothing on such a node, and starts nothing new there.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import state as ray_state
from ray.exceptions import RayError

SECONDS = 0.5
"""From one question to the next; a question takes Ray's head about two milliseconds."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leaving:
    """A node that is told to leave, and the seconds until it does; infinite without a deadline."""

    node: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a cluster at one moment, by Ray's numbers.

    ``deadlines`` has the nodes among the ``living`` that are told to leave, with the time when they
    do, in seconds as ``time.time`` counts; infinite where nobody said when.
    """

    living: frozenset[str] = frozenset()
    deadlines: Mapping[str, float] = field(default_factory=dict)

    def leaving(self, now: float) -> tuple[Leaving, ...]:
        """Return the nodes that are told to leave, the first to go first."""
        left = ((max(0.0, when - now), node) for node, when in self.deadlines.items())
        return tuple(Leaving(node, seconds) for seconds, node in sorted(left))

    @property
    def staying(self) -> frozenset[str]:
        """The living nodes that nobody told to leave."""
        return self.living - self.deadlines.keys()


def seen(rows: Iterable[Mapping[str, Any]], draining: Mapping[str, int]) -> Nodes:
    """Return the nodes of Ray's two answers: its table of nodes, and deadlines in milliseconds."""
    living = frozenset(str(row["NodeID"]) for row in rows if row["Alive"])
    deadlines = {
        node: when / 1000 if when else math.inf for node, when in draining.items() if node in living
    }
    return Nodes(living, deadlines)


def ask() -> Nodes:
    """Ask the Ray cluster to which this process belongs."""
    draining = ray_state.get_draining_nodes()
    return seen(ray.nodes(), draining)  # type: ignore[no-untyped-call]


class NodeWatch:
    """A thread that asks for the nodes; it ends with ``close``, or with its process."""

    def __init__(self, asked: Callable[[], Nodes] = ask, seconds: float = SECONDS) -> None:
        self._asked = asked
        self._seconds = seconds
        self._nodes = asked()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)
        self._thread.start()

    @property
    def nodes(self) -> Nodes:
        """The nodes as they were seen last; does not wait.

        Equal to what was seen before unless a node joined, died, or was told to leave.
        """
        return self._nodes

    def leaving(self) -> tuple[Leaving, ...]:
        """Return the nodes that are told to leave, with the seconds that each has left now."""
        return self._nodes.leaving(time.time())

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self._nodes = self._asked()
            except (RayError, RuntimeError, OSError) as error:
                _LOG.warning("Ray did not tell its nodes, asking again: %s", error)
