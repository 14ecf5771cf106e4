"""Keeps an engine alive: checks its health, rebuilds it after the loss of a rank, ends it."""

import logging
import threading
from collections.abc import Callable
from typing import Any, Literal

from moe.errors import RaymoeError
from pipelines.serving.generation.engine import Engine

State = Literal["serving", "mending", "rebuilding", "failed"]
Build = Callable[[], Engine[Any]]

_LOG = logging.getLogger(__name__)


class EngineKeeper:
    """Holds the engine; ``build`` makes it, at first and after every loss.

    Only one thread may call the methods; any thread may read ``state``.
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self._engine: Engine[Any] | None = build()
        self._state: State = "serving"
        self._told = ""
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        """The present state of the engine."""
        with self._lock:
            return self._state

    @property
    def engine(self) -> Engine[Any] | None:
        """The engine; None after a failed rebuild."""
        return self._engine

    @property
    def there(self) -> Engine[Any]:
        """The engine, where it is known to exist."""
        assert self._engine is not None
        return self._engine

    def whole(self) -> bool:
        """Return whether the engine exists and all its ranks are alive."""
        try:
            return self._engine is not None and self._engine.healthy()
        except Exception:
            _LOG.exception("the health check of the engine failed")
            return False

    def mend(self) -> bool:
        """Bring the ranks of the engine together again; return whether it serves again."""
        if self._engine is None:
            return False
        self._become("mending")
        try:
            mended = self._engine.mend()
        except Exception as error:
            _LOG.warning("the engine could not be mended: %s", error)
            return False
        ranks = ", ".join(map(str, mended.replaced)) or "none"
        _LOG.warning(
            "the engine serves again after %.1f s; ranks replaced: %s", mended.seconds, ranks
        )
        self._become("serving")
        return True

    def rebuild(self) -> Exception | None:
        """End the engine and build a new one; return the error, or None if the engine serves
        again.
        """
        self._become("rebuilding")
        self.end()
        try:
            self._engine = self._build()
        except Exception as error:
            self._tell(error)
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

    def _tell(self, error: Exception) -> None:
        """Log why there is no engine, once for each reason: an idle server tries again and again.

        Only what nobody foresaw has a traceback.
        """
        if str(error) != self._told:
            self._told = str(error)
            foreseen = isinstance(error, RaymoeError)
            _LOG.error("the engine could not be rebuilt: %s", error, exc_info=not foreseen)

    def _become(self, state: State) -> None:
        with self._lock:
            self._state = state
