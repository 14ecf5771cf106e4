"""Time and memory of work on a device: CUDA events on a GPU, the clock on the wall on a CPU."""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.rows import Setting

Work = Callable[[], object]

WARM = 3
ROUNDS = 10


def milliseconds(setting: Setting, work: Work, rounds: int = ROUNDS, warm: int = WARM) -> float:
    """Return the median time of a piece of work.

    On a GPU all rounds are queued before the first is waited for, so the host may run ahead as it
    does in training. A host that is slower than the GPU shows in the figure.
    """
    rounds, warm = (1, 1) if setting.tiny else (rounds, warm)
    for _ in range(warm):
        work()
    return median(_on_gpu(work, rounds) if setting.cuda else _on_cpu(work, rounds))


def finish(setting: Setting) -> None:
    """Wait until the device has done all that it was given."""
    if setting.cuda:
        torch.cuda.synchronize()


def seconds(setting: Setting, work: Work) -> float:
    """Return the clock on the wall of one run, from an idle device to an idle device."""
    finish(setting)
    started = time.perf_counter()
    work()
    finish(setting)
    return time.perf_counter() - started


def forget_peak(setting: Setting) -> None:
    """Give cached memory back and count the peak from here."""
    if setting.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gigabytes(setting: Setting) -> float | None:
    """Return the most memory that tensors took since ``forget_peak``; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if setting.cuda else None


def taken_gigabytes(setting: Setting) -> float | None:
    """Return what is taken of the card: tensors, cached memory, context, NCCL; None on a CPU."""
    if not setting.cuda:
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


def _on_gpu(work: Work, rounds: int) -> list[float]:
    event: Any = torch.cuda.Event
    marks = [event(enable_timing=True) for _ in range(rounds + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    return [one.elapsed_time(other) for one, other in pairwise(marks)]


def _on_cpu(work: Work, rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append((time.perf_counter() - started) * 1e3)
    return found
