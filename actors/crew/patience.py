"""A decision about nodes, asked again for a while where Ray says that they are busy."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from actors.crew.nodes.nodes import rooms
from actors.crew.nodes.room import Room
from moe.errors import ClusterBusy

STALE_SECONDS = 3.0
"""Ray may call busy for so long what was just given back."""

Decision = TypeVar("Decision")


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
