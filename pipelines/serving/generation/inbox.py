"""What the event loop has for the scheduler's thread: generations that came, readers who left."""

import threading
from collections.abc import Sequence

from pipelines.serving.generation.stream import Stream
from pipelines.serving.refusals import Overloaded, Unavailable


class Inbox:
    """Filled by any thread, emptied by one; at most ``capacity`` generations are held in all."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()
        self._new: list[Stream] = []
        self._left: list[Stream] = []
        self._held = 0
        self._nudged = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether no generation is taken any more."""
        with self._changed:
            return self._closed

    @property
    def arrived(self) -> int:
        """Number of generations that the scheduler has not taken yet."""
        with self._changed:
            return len(self._new)

    @property
    def arrived_tokens(self) -> int:
        """Tokens of the prompts of these, and the most that will be generated for them."""
        with self._changed:
            jobs = [stream.generation.job for stream in self._new]
        return sum(len(job.prompt) + job.max_tokens for job in jobs)

    def put(self, streams: Sequence[Stream]) -> None:
        """Take generations in, all or none; raises Overloaded if not all of them fit."""
        with self._changed:
            if self._closed:
                raise Unavailable("the server is shutting down")
            if self._held + len(streams) > self._capacity:
                raise Overloaded(
                    f"{self._held} generations are queued or running and the server holds "
                    f"{self._capacity}, so {len(streams)} more do not fit; try again in a moment",
                    code="queue_full",
                )
            self._held += len(streams)
            self._new += streams
            self._changed.notify_all()

    def leave(self, stream: Stream) -> None:
        """Note that the reader of a stream has gone."""
        with self._changed:
            self._left.append(stream)
            self._changed.notify_all()

    def nudge(self) -> None:
        """End the wait of ``take``, once."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def ended(self, count: int = 1) -> None:
        """Note that generations which were taken have ended."""
        with self._changed:
            self._held -= count

    def take(self, seconds: float) -> tuple[list[Stream], list[Stream]]:
        """Return who came and who left since the last time; wait so long if nobody did."""
        with self._changed:
            if seconds > 0:
                self._changed.wait_for(self._woken, seconds)
            self._nudged = False
            new, left = self._new, self._left
            self._new, self._left = [], []
            return new, left

    def _woken(self) -> bool:
        return bool(self._new or self._left or self._nudged or self._closed)
