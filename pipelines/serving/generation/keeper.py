"""The engine kept whole: looked at, replaced when a rank is lost, ended at last."""

import logging
import threading
from collections.abc import Callable
from typing import Literal

from pipelines.serving.generation.generation import Engine

State = Literal["serving", "rebuilding", "failed"]
Build = Callable[[], Engine]

_LOG = logging.getLogger(__name__)


class EngineKeeper:
    """Holds the engine that ``build`` makes, now and after every loss.

    One thread calls everything but ``state``, which any thread may read.
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self._engine: Engine | None = build()
        self._state: State = "serving"
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        """What the engine is doing now."""
        with self._lock:
            return self._state

    @property
    def engine(self) -> Engine | None:
        """The engine; None after a rebuild that failed."""
        return self._engine

    def lose(self) -> None:
        """Say that the engine is lost, before it is rebuilt, which takes a while."""
        self._become("rebuilding")

    def whole(self) -> bool:
        """Tell whether the engine is there with all its ranks."""
        try:
            return self._engine is not None and self._engine.healthy()
        except Exception:
            _LOG.exception("the engine could not tell its health")
            return False

    def rebuild(self) -> Exception | None:
        """End the engine and build another; return what went wrong, None if it serves again."""
        self._become("rebuilding")
        self.end()
        try:
            self._engine = self._build()
        except Exception as error:
            _LOG.exception("the engine could not be rebuilt")
            self._become("failed")
            return error
        self._become("serving")
        return None

    def end(self) -> None:
        """End the engine, if there is one."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            engine.shutdown()
        except Exception:
            _LOG.exception("the engine did not end cleanly")

    def _become(self, state: State) -> None:
        with self._lock:
            self._state = state
