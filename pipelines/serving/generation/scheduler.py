"""Who is served when: one generation at a time, in order of arrival.

One thread owns the engine: it alone calls it, looks after its health while idle, and has it
rebuilt when a rank is lost. Handlers on the event loop submit generations and read streams.
"""

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from moe.errors import DeadlineExceeded, RankLost, RaymoeError
from pipelines.serving.generation.generation import Engine, Generation, run
from pipelines.serving.generation.stream import Stream
from pipelines.serving.limits import Limits
from pipelines.serving.refusals import Failed, Overloaded, Refusal, Unavailable

State = Literal["serving", "rebuilding", "failed"]
Build = Callable[[], Engine]
OnEnd = Callable[[Generation], None]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """The engine's state and the length of the queue."""

    state: State
    running: int
    waiting: int


class Scheduler:
    """Runs generations on an engine that ``build`` makes, now and after every loss.

    ``on_end`` is told every generation that was begun, finished or not.
    """

    def __init__(
        self, build: Build, limits: Limits, on_end: OnEnd = lambda generation: None
    ) -> None:
        self._build = build
        self._on_end = on_end
        self._limits = limits
        self._engine: Engine | None = build()
        self._state: State = "serving"
        self._waiting: deque[Stream] = deque()
        self._running: Stream | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def status(self) -> Status:
        """The state now."""
        with self._changed:
            return Status(self._state, int(self._running is not None), len(self._waiting))

    def submit(self, generations: Sequence[Generation]) -> list[Stream]:
        """Queue generations, all or none; call it on the event loop that reads the streams."""
        seconds = self._limits.request_seconds
        streams = [Stream(generation, seconds, self._forget) for generation in generations]
        with self._changed:
            self._check_room(len(streams))
            self._waiting.extend(streams)
            self._changed.notify_all()
        return streams

    def close(self, timeout_seconds: float) -> None:
        """Refuse what waits, stop what runs, end the engine."""
        with self._changed:
            self._closing = True
            running = self._running
            self._changed.notify_all()
        self._refuse_waiting("the server is shutting down")
        if running is not None:
            running.fail(Unavailable("the server is shutting down"))
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            _LOG.warning("the engine did not end within %g seconds", timeout_seconds)

    def _check_room(self, new: int) -> None:
        if self._closing:
            raise Unavailable("the server is shutting down")
        held = len(self._waiting) + int(self._running is not None)
        room = self._limits.waiting + 1 - held
        if new > room:
            raise Overloaded(
                f"{held} generations are queued or running and the server holds "
                f"{self._limits.waiting + 1}, so {new} more do not fit; try again in a moment",
                code="queue_full",
            )

    def _forget(self, stream: Stream) -> None:
        """Give up the place of a cancelled stream; a running one ends at its next step."""
        with self._changed:
            if stream in self._waiting:
                self._waiting.remove(stream)

    def _refuse_waiting(self, reason: str) -> None:
        with self._changed:
            refused = list(self._waiting)
            self._waiting.clear()
        for stream in refused:
            stream.fail(Unavailable(reason))

    def _work(self) -> None:
        while not self._closing:
            stream = self._next()
            if stream is None:
                self._look()
                continue
            self._serve(stream)
            self._tell_end(stream.generation)
            with self._changed:
                self._running = None
        self._end_engine()

    def _tell_end(self, generation: Generation) -> None:
        """Report a generation; what goes wrong there must not end the only thread that serves."""
        try:
            self._on_end(generation)
        except Exception:
            _LOG.exception("the end of a generation could not be reported")

    def _next(self) -> Stream | None:
        """Wait for work; None when there was none for a while."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._waiting, self._limits.idle_seconds
            )
            if self._waiting and not self._closing:
                self._running = self._waiting.popleft()
                return self._running
        return None

    def _serve(self, stream: Stream) -> None:
        if self._engine is None:
            self._rebuild()
        if self._engine is None:
            stream.fail(Unavailable("the engine is down; try again in a moment"))
            return
        try:
            _generate(stream, self._engine)
        except (RankLost, DeadlineExceeded) as error:
            _LOG.warning("lost the engine: %s", error)
            self._state = "rebuilding"
            stream.fail(Unavailable(f"the engine is being rebuilt, try again: {error}"))
            self._rebuild()
        except Exception as error:
            _LOG.exception("a generation failed")
            stream.fail(_failure(error))
            self._look()

    def _look(self) -> None:
        """Rebuild an engine that is not whole."""
        if self._closing:
            return
        try:
            whole = self._engine is not None and self._engine.healthy()
        except Exception:
            _LOG.exception("the engine could not tell its health")
            whole = False
        if not whole:
            self._rebuild()

    def _rebuild(self) -> None:
        self._state = "rebuilding"
        self._end_engine()
        try:
            self._engine = self._build()
        except Exception as error:
            _LOG.exception("the engine could not be rebuilt")
            self._state = "failed"
            self._refuse_waiting(f"the engine could not be rebuilt: {error}")
        else:
            self._state = "serving"

    def _end_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            engine.shutdown()
        except Exception:
            _LOG.exception("the engine did not end cleanly")


def _generate(stream: Stream, engine: Engine) -> None:
    """Run one generation to its end, or until nobody reads it; a lost engine forgets by itself."""
    sequence = uuid.uuid4().hex
    try:
        for delta in run(stream.generation, engine, sequence):
            if stream.cancelled:
                break
            if delta is not None:
                stream.put(delta)
    except (RankLost, DeadlineExceeded):
        raise
    except Exception:
        engine.release(sequence)
        raise
    engine.release(sequence)


def _failure(error: Exception) -> Refusal:
    if isinstance(error, RaymoeError):
        return Failed(str(error))
    return Failed("the server failed; its log tells more")
