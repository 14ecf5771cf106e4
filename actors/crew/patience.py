"""How long a decision about nodes is tried: where Ray says that they are busy, and until they come.

Ray's view of what is free is some tenths of a second old, so every decision is tried again for a
moment. Nodes that an autoscaler starts, pods that are replaced and quotas that others give back
take minutes: a launch waits for those as long as its run allows, and asks for them meanwhile.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from actors.crew.nodes.bundles import Gang
from actors.crew.nodes.nodes import rooms
from actors.crew.nodes.room import Room
from actors.crew.wanting import await_news
from moe.errors import ClusterBusy, LaunchError

STALE_SECONDS = 3.0
"""Ray may call busy for so long what was just given back."""

Decision = TypeVar("Decision")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a launch waits for room, and who is told for what.

    ``tell`` is called with the reason whenever that changes. A launch that is no longer ``wanted``
    ends its wait.
    """

    seconds: float = 0.0
    tell: Callable[[str], object] = lambda reason: None
    wanted: Callable[[], bool] = lambda: True


AT_ONCE = Patience()
"""Refuse what the cluster has no room for now."""


def decided(decide: Callable[[Sequence[Room]], Decision]) -> Decision:
    """Return what is decided for the nodes as they are; ClusterBusy where they stay busy."""
    deadline = time.monotonic() + STALE_SECONDS
    while True:
        try:
            return decide(rooms())
        except ClusterBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def awaited(
    run: str,
    asked: Sequence[Gang],
    decide: Callable[[Sequence[Room]], Decision],
    patience: Patience,
) -> Decision:
    """Return what is decided once the cluster has room for the gangs; ask for the room meanwhile.

    LaunchError, or ClusterBusy, where it has none in time.
    """
    deadline, told = time.monotonic() + patience.seconds, ""
    while True:
        try:
            return decided(decide)
        except LaunchError as error:
            if time.monotonic() > deadline or not patience.wanted():
                raise
            if str(error) != told:
                told = str(error)
                patience.tell(told)
        await_news(run, asked, deadline, patience.wanted)
