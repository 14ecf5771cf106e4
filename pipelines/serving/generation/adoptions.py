"""The adapters that the ranks of an engine have, and those that come and go.

Ranks read an adapter beside the batches that they run; only then may sequences use it. One that is
to go stays until no sequence uses it. After a loss, all of them are told again, since ranks that
were replaced have none.
"""

import logging
import threading
from collections.abc import Mapping, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.commands import AdapterSource
from moe.errors import CheckpointError, RaymoeError, StorageError

_LOG = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Coming:
    source: AdapterSource
    done: Future[None] = field(default_factory=Future)
    begun: Any = None


class Adopting(Protocol):
    """An engine whose ranks may take up adapters while they answer."""

    def adopt(self, source: AdapterSource) -> Any:
        """Begin to take up an adapter and return at once; do nothing where it is there.

        ``over`` of what it returns says whether all ranks have it, or one has failed.
        """

    def adopted(self, adoption: Any) -> None:
        """Wait until all ranks have the adapter; CheckpointError where it cannot be read."""

    def drop(self, adapter: int) -> None:
        """Forget an adapter once the batches begun so far are done."""


class Adoptions:
    """``come``, ``go`` and ``holds`` may be called from any thread, all else from one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coming: list[_Coming] = []
        self._going: dict[int, Future[None]] = {}
        self._there: dict[int, AdapterSource] = {}
        self._stale: set[int] = set()
        self._ended: Exception | None = None

    def come(self, source: AdapterSource) -> Future[None]:
        """Ask for an adapter; the result is there when all ranks have it."""
        coming = _Coming(source)
        with self._lock:
            if self._ended is None:
                self._coming.append(coming)
            else:
                coming.done.set_exception(self._ended)
        return coming.done

    def go(self, number: int) -> Future[None]:
        """Ask for the end of an adapter; the result is there when the ranks are told."""
        with self._lock:
            going = self._going.setdefault(number, Future())
        if self._ended is not None:
            self.fail(self._ended)
        return going

    def holds(self, number: int) -> bool:
        """Return whether sequences may use an adapter."""
        return number in self._there

    @property
    def pending(self) -> bool:
        """Whether any is to come or to go."""
        return bool(self._coming or self._going)

    def turn(self, engine: Adopting, used: Set[int]) -> None:
        """Do what can be done without waiting; raises what has gone wrong with the engine."""
        with self._lock:
            coming, going = list(self._coming), [*self._going.keys() - used]
        for number in going:
            self._forget(number)
            engine.drop(number)
            self._going.pop(number).set_result(None)
        for each in coming:
            if each.begun is None:
                each.begun = engine.adopt(each.source)
            if each.begun.over:
                self._finish(engine, each)

    def renew(self, engine: Adopting) -> Mapping[int, RaymoeError]:
        """Have all ranks take up again what they had before a loss; return what is not to be had
        any more, and why.
        """
        lost: dict[int, RaymoeError] = {}
        while self._stale:
            number = next(iter(self._stale))
            try:
                engine.adopted(engine.adopt(self._there[number]))
            except (CheckpointError, StorageError) as error:
                _LOG.error("an adapter is lost: %s", error)
                lost[number] = error
                engine.drop(number)
                self._forget(number)
            self._stale.discard(number)
        return lost

    def restart(self) -> None:
        """Note that ranks are others now."""
        self._stale = set(self._there)
        for each in self._coming:
            each.begun = None

    def fail(self, error: Exception) -> None:
        """Give up all that is to come, and let go what is to go."""
        with self._lock:
            coming, self._coming = self._coming, []
            going, self._going = self._going, {}
        for each in coming:
            each.done.set_exception(error)
        for number, done in going.items():
            self._forget(number)
            done.set_result(None)

    def end(self, error: Exception) -> None:
        """Give up all, now and from now on."""
        with self._lock:
            self._ended = error
        self.fail(error)

    def _finish(self, engine: Adopting, coming: _Coming) -> None:
        with self._lock:
            self._coming.remove(coming)
        try:
            engine.adopted(coming.begun)
        except Exception as error:
            coming.done.set_exception(error)
            engine.drop(coming.source.number)
            if not isinstance(error, CheckpointError | StorageError):
                raise
        else:
            self._there[coming.source.number] = coming.source
            coming.done.set_result(None)

    def _forget(self, number: int) -> None:
        self._there.pop(number, None)
        self._stale.discard(number)
