"""The output of one generation: filled by the scheduler's thread, read on an event loop."""

import asyncio
import time
from collections.abc import Callable

from pipelines.serving.generation.generation import Delta, Generation
from pipelines.serving.refusals import Overdue, Refusal


class Stream:
    """An async iterator of deltas that ends after the last one, or raises a Refusal.

    Create it on the event loop that reads it. After ``seconds`` it raises Overdue. ``started`` is
    when it was first in a batch.
    """

    def __init__(
        self, generation: Generation, seconds: float, forget: Callable[["Stream"], None]
    ) -> None:
        self.generation = generation
        self.cancelled = False
        self.arrived = time.monotonic()
        self.started: float | None = None
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._forget = forget
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Delta | Refusal] = asyncio.Queue()

    def put(self, delta: Delta) -> None:
        """Add a delta; may be called from any thread."""
        self._send(delta)

    def fail(self, refusal: Refusal) -> None:
        """End the stream with a refusal; may be called from any thread."""
        self._send(refusal)
        self.cancelled = True

    def cancel(self) -> None:
        """Cancel the generation; no effect if it has ended."""
        if not self.cancelled:
            self.cancelled = True
            self._forget(self)

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Delta:
        if self._ended:
            raise StopAsyncIteration
        item = await self._next()
        if isinstance(item, Refusal):
            self._ended = True
            raise item
        self._ended = item.finish is not None
        return item

    async def _next(self) -> Delta | Refusal:
        left = self._deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                return await self._items.get()
        except TimeoutError:
            self.cancel()
            return Overdue(
                f"the answer took longer than the {self._seconds:g} seconds a request may "
                "take, waiting included; lower max_tokens or try again later"
            )

    def _send(self, item: Delta | Refusal) -> None:
        """Put an item into the reader's queue; a reader whose event loop is closed counts as
        cancelled.
        """
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:
            self.cancelled = True
