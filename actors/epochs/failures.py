"""What the failures of a rank are to its engine, told apart by what the libraries say.

Some failures end the epoch, and the ranks meet again. Others would only come again: no memory is
left, or the process has lost its GPU for good. CUDA calls an error *sticky* after which every other
call of the process fails with it; then only a new process can go on.
"""

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from actors.epochs.leaving import leave_groups
from moe.errors import OutOfMemory, RankLost, RaymoeError, StorageError

DEAD_CONTEXT = 70
"""Exit code of a process that has lost its GPU."""

_STICKY = (
    "device-side assert triggered",
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "misaligned address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "unspecified launch failure",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error",
    "context is destroyed",
)
"""What the CUDA runtime says of errors after which the process cannot use its GPU any more."""

_NO_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What the CUDA runtime, the CPU's allocator and cuBLAS say when memory is used up."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Doing:
    """What a rank does, for errors: ``remedy`` tells what to change where memory is short."""

    rank: int
    what: str
    remedy: Callable[[], str]

    @property
    def failed(self) -> str:
        """The beginning of a sentence on a failure."""
        return f"rank {self.rank} failed during {self.what}"


@contextmanager
def guarded(doing: Doing, leave: Callable[[], None] = leave_groups) -> Iterator[None]:
    """Leave all groups after a failure and say what it is; what failed holds no group any more.

    ``leave`` is how: work beside others must not end the groups of a later epoch than its own.
    """
    try:
        yield
    except RaymoeError as error:
        _let_go(error, leave)
        raise
    except Exception as error:
        _end_if_lost(error, doing)
        _let_go(error, leave)
        _raise_if_short(error, doing)
        if isinstance(error, OSError):
            raise StorageError(
                f"{doing.failed}: {error}; every rank must reach the same files with room on the "
                "disk"
            ) from error
        raise RankLost(f"{doing.failed}: {error}") from error


@contextmanager
def conclusive(doing: Doing) -> Iterator[None]:
    """Tell apart the failures that would come again, in work that no other rank waits for."""
    try:
        yield
    except RaymoeError:
        raise
    except Exception as error:
        _end_if_lost(error, doing)
        _raise_if_short(error, doing)
        raise


def _end_if_lost(error: Exception, doing: Doing) -> None:
    """End the process if it has lost its GPU; the engine then finds a rank that died."""
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _STICKY):
        _LOG.critical("%s and lost its GPU; the process ends: %s", doing.failed, error)
        os._exit(DEAD_CONTEXT)


def _raise_if_short(error: Exception, doing: Doing) -> None:
    """Raise OutOfMemory if the error says that memory was short."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    if known or told:
        first = str(error).partition("\n")[0] or type(error).__name__
        raise OutOfMemory(f"{doing.failed}: {first}; {doing.remedy()}") from error


def _let_go(error: BaseException, leave: Callable[[], None]) -> None:
    """Leave the groups, also those that locals of the functions that failed hold."""
    traceback.clear_frames(error.__traceback__)
    leave()
