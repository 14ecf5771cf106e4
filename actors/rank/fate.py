"""A process of a run ends with the node that started it.

Ray was seen to leave processes of a node whose raylet was killed in the middle of a step: they
outlived it by minutes, with their memory and their devices.
"""

import os
import threading
import time

LOOK_SECONDS = 1.0


def share_fate() -> None:
    """Watch the process that started this one from now on, and end when it has ended."""
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="fate", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)
