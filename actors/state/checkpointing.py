"""What the engine knows of a checkpoint that its ranks are writing."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from actors.calls import failed
from moe.checkpoint.records import WrittenFiles


class PendingWrites:
    """Files that ranks are writing; nothing waits for them until the result is asked for."""

    def __init__(self, refs: Sequence[Any], gather: Callable[[], list[WrittenFiles]]) -> None:
        self._refs = list(refs)
        self._gather = gather

    def done(self) -> bool:
        """Tell whether all ranks have written, or one has failed; at once."""
        ready, waiting = ray.wait(self._refs, num_returns=len(self._refs), timeout=0)
        return not waiting or any(failed(ref) for ref in ready)

    def result(self) -> list[WrittenFiles]:
        """Wait for what every rank has written."""
        return self._gather()
