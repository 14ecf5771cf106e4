"""Serves one generation at a time, in order of arrival.

Only one thread calls the engine: it runs generations, checks the health of an idle engine, and
rebuilds the engine when a rank is lost. Handlers on the event loop submit generations and read
streams.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.serving.generation.admission import Admission
from pipelines.serving.generation.generation import Generation
from pipelines.serving.generation.keeper import Build, EngineKeeper, State
from pipelines.serving.generation.runner import LOST, failure, generate
from pipelines.serving.generation.stream import Stream
from pipelines.serving.limits import Limits
from pipelines.serving.refusals import Unavailable

OnEnd = Callable[[Generation], None]

_CLOSING = "the server is shutting down"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """The engine's state and the length of the queue."""

    state: State
    running: int
    waiting: int


class Scheduler:
    """Runs generations on an engine; ``build`` makes it, at first and after every loss.

    ``on_end`` is called with every generation that began, complete or not.
    """

    def __init__(
        self, build: Build, limits: Limits, on_end: OnEnd = lambda generation: None
    ) -> None:
        self._on_end = on_end
        self._limits = limits
        self._keeper = EngineKeeper(build)
        self._admission: Admission[Stream] = Admission(limits.waiting + 1)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def status(self) -> Status:
        """The present status."""
        with self._changed:
            now = self._admission
        return Status(self._keeper.state, len(now.running), len(now.waiting))

    def submit(self, generations: Sequence[Generation]) -> list[Stream]:
        """Queue generations, all or none; call it on the event loop that reads the streams."""
        seconds = self._limits.request_seconds
        streams = [Stream(generation, seconds, self._forget) for generation in generations]
        with self._changed:
            self._admission = self._admission.admit(streams)
            self._changed.notify_all()
        return streams

    def close(self, timeout_seconds: float) -> None:
        """Refuse the waiting generations, stop the running one, end the engine."""
        with self._changed:
            self._admission = self._admission.close()
            running = self._admission.running
            self._changed.notify_all()
        self._refuse_waiting(_CLOSING)
        for stream in running:
            stream.fail(Unavailable(_CLOSING))
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            _LOG.warning("the engine did not end within %g seconds", timeout_seconds)

    def _forget(self, stream: Stream) -> None:
        """Remove a cancelled stream from the queue; a running stream ends at its next step."""
        with self._changed:
            self._admission = self._admission.forget(stream)

    def _refuse_waiting(self, reason: str) -> None:
        with self._changed:
            refused = self._admission.waiting
            self._admission = self._admission.emptied()
        for stream in refused:
            stream.fail(Unavailable(reason))

    def _work(self) -> None:
        while not self._closed:
            stream = self._next()
            if stream is None:
                self._look()
                continue
            self._serve(stream)
            self._report_end(stream.generation)
            with self._changed:
                self._admission = self._admission.end(stream)
        self._keeper.end()

    @property
    def _closed(self) -> bool:
        with self._changed:
            return self._admission.closed

    def _next(self) -> Stream | None:
        """Wait for the next generation; None if none arrived for a while."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._admission.closed or self._admission.waiting,
                self._limits.idle_seconds,
            )
            self._admission = self._admission.begin()
            return next(iter(self._admission.running), None)

    def _serve(self, stream: Stream) -> None:
        if self._keeper.engine is None:
            self._rebuild()
        engine = self._keeper.engine
        if engine is None:
            stream.fail(Unavailable("the engine is down; try again in a moment"))
            return
        try:
            generate(stream, engine)
        except LOST as error:
            _LOG.warning("lost the engine: %s", error)
            self._keeper.lose()
            stream.fail(Unavailable(f"the engine is being rebuilt, try again: {error}"))
            self._rebuild()
        except Exception as error:
            _LOG.exception("a generation failed")
            stream.fail(failure(error))
            self._look()

    def _report_end(self, generation: Generation) -> None:
        """Report the end of a generation; an exception there must not end the only serving
        thread.
        """
        try:
            self._on_end(generation)
        except Exception:
            _LOG.exception("the end of a generation could not be reported")

    def _look(self) -> None:
        """Rebuild the engine if it or a rank is lost."""
        if not self._closed and not self._keeper.whole():
            self._rebuild()

    def _rebuild(self) -> None:
        if (error := self._keeper.rebuild()) is not None:
            self._refuse_waiting(f"the engine could not be rebuilt: {error}")
