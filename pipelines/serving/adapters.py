"""The adapters that a server answers with, by name: what may be loaded, and the memory it takes."""

import itertools
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from actors.commands import AdapterSource
from moe.checkpoint.adapters.files import AdapterFiles
from moe.config.adapters import factor_bytes
from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.errors import CheckpointError, OutOfMemory, RaymoeError
from pipelines.serving.generation.adapter import Adapter
from pipelines.serving.generation.scheduler import Scheduler
from pipelines.serving.refusals import BadRequest, Refusal, Unavailable, UnknownModel
from pipelines.serving.telemetry import Telemetry

_NAME = re.compile(r"[\w.:/@+-]{1,128}")


@dataclass(frozen=True, slots=True)
class AdapterMemory:
    """Memory for adapters on each rank of a model: at most ``most`` bytes; ``each`` of a number."""

    config: ModelConfig
    shares: Sequence[Share]
    each: int
    most: int

    def needs(self, files: AdapterFiles) -> tuple[int, ...]:
        """Return the bytes that an adapter takes on each rank."""
        held = (factor_bytes(self.config, own, files.rank, self.each) for own in self.shares)
        return tuple(held)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter that answers, and when it was loaded, in seconds since 1970."""

    adapter: Adapter
    created: int = field(default_factory=lambda: int(time.time()))


class Adapters:
    """Loads and drops adapters; all methods may be called from any thread."""

    def __init__(
        self, model: str, memory: AdapterMemory, scheduler: Scheduler, telemetry: Telemetry
    ) -> None:
        self._model = model
        self._memory = memory
        self._scheduler = scheduler
        self._telemetry = telemetry
        self._changing = threading.Lock()
        self._counting = threading.Lock()
        self._numbers = itertools.count(1)
        self._loaded: dict[str, Loaded] = {}
        self._taken: dict[int, tuple[int, ...]] = {}

    def named(self, name: str) -> Adapter | None:
        """Return the adapter of a name, if there is one."""
        found = self._loaded.get(name)
        return found.adapter if found and self._scheduler.has(found.adapter.number) else None

    @property
    def loaded(self) -> Mapping[str, Loaded]:
        """All adapters by name, in the order in which they were loaded."""
        known = dict(self._loaded)
        return {
            name: each for name, each in known.items() if self._scheduler.has(each.adapter.number)
        }

    def load(self, name: str, directory: Path, replaces: bool = False) -> None:
        """Have the ranks take up an adapter and wait until requests may use it.

        With ``replaces``, it takes the name of the one before, whose requests go on to their end.
        """
        with self._changing:
            self._forget_lost()
            self._check_name(name, replaces)
            try:
                files = AdapterFiles(directory.absolute(), self._memory.config)
                source = AdapterSource(next(self._numbers), files.directory, files.digest())
            except CheckpointError as error:
                raise BadRequest(str(error), "lora_path") from error
            with self._reserved(source.number, self._memory.needs(files), name):
                _wait(self._scheduler, source)
            before = self._loaded.pop(name, None)
            self._loaded[name] = Loaded(Adapter(name, source))
            if before is not None:
                self._release(before.adapter.number)

    def unload(self, name: str) -> None:
        """Take no more requests for an adapter; its memory is free when the last has ended."""
        with self._changing:
            found = self._loaded.pop(name, None)
            if found is None:
                raise UnknownModel(
                    f"the adapter {name!r} is not loaded; loaded are {sorted(self._loaded)}",
                    "lora_name",
                    "adapter_not_found",
                )
            self._release(found.adapter.number)

    def _forget_lost(self) -> None:
        """Count no memory for adapters that could not be read again after a loss."""
        for name, each in list(self._loaded.items()):
            if not self._scheduler.has(each.adapter.number):
                del self._loaded[name]
                self._release(each.adapter.number)

    def _check_name(self, name: str, replaces: bool) -> None:
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f"{name!r} is no name for an adapter; give 1 to 128 letters, digits and ._:/@+-",
                "lora_name",
            )
        if name == self._model:
            raise BadRequest(f"{name!r} is the name of the model; choose another", "lora_name")
        if self.named(name) is not None and not replaces:
            raise BadRequest(
                f"an adapter {name!r} is loaded already; choose another name, unload it first, or "
                "set load_inplace to put this one in its place",
                "lora_name",
                "adapter_exists",
            )

    @contextmanager
    def _reserved(self, number: int, needs: tuple[int, ...], name: str) -> Iterator[None]:
        """Count memory of the ranks as taken; not if what follows fails."""
        self._check_memory(needs, name)
        self._count(number, needs)
        try:
            yield
        except BaseException:
            self._count(number, None)
            raise

    def _check_memory(self, needs: tuple[int, ...], name: str) -> None:
        most = self._memory.most
        for rank, (wanted, taken) in enumerate(zip(needs, self._total(), strict=True)):
            if taken + wanted > most:
                raise BadRequest(
                    f"the adapter {name!r} takes {wanted / 1e6:.1f} MB on rank {rank}, where "
                    f"adapters take {taken / 1e6:.1f} of {most / 1e6:.1f} MB; unload others, or "
                    "raise adapter_gb (--adapter-gb)",
                    "lora_path",
                    "adapter_memory",
                )

    def _release(self, number: int) -> None:
        done = self._scheduler.release(number)
        done.add_done_callback(lambda _: self._count(number, None))

    def _count(self, number: int, needs: tuple[int, ...] | None) -> None:
        with self._counting:
            if needs is None:
                self._taken.pop(number, None)
            else:
                self._taken[number] = needs
            self._telemetry.adapters(len(self._taken), max(self._total()))

    def _total(self) -> tuple[int, ...]:
        """Return the bytes taken on each rank."""
        every = [(0,) * len(self._memory.shares), *self._taken.values()]
        return tuple(sum(own) for own in zip(*every, strict=True))


def _wait(scheduler: Scheduler, source: AdapterSource) -> None:
    """Wait until the ranks have an adapter; raise a refusal if they cannot have it."""
    try:
        scheduler.adopt(source).result()
    except Refusal:
        raise
    except (CheckpointError, OutOfMemory) as error:
        raise BadRequest(str(error), "lora_path") from error
    except RaymoeError as error:
        raise Unavailable(f"the adapter could not be loaded: {error}; try again") from error
