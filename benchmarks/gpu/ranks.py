"""Ranks on one card: one over NCCL, and two that share it over gloo, against the one."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.gpu.rows import Row, Setting, at_most, attempted, holds
from benchmarks.gpu.team import Team, model_directory, team

STEPS = 3
LOSS = 1e-5
"""How far losses of the same training may differ, relative."""


def part(setting: Setting) -> Iterator[Row]:
    """Train a few steps each way; save, resume, and compare the bits."""
    with model_directory() as folder:
        started = time.perf_counter()
        with team(setting, folder) as one:
            ready = time.perf_counter() - started
            expected = _losses(one, STEPS - 1)
            saved = one.save(folder.parent / "step", STEPS - 1)
            expected += _losses(one, 1, STEPS - 1)
            digest = one.each("digest")
            yield Row("one rank", {"loss": expected[-1], "seconds to be ready": ready})
            one.begin(saved)
            again = _losses(one, 1, STEPS - 1)
            same = one.each("digest") == digest
            bars = (holds("the same bits after resuming", same),)
            yield Row("one rank, resumed", {"loss": again[-1]}, bars)
        for name, gang, replicas in (("a gang of two", 2, 1), ("two replicas", 1, 2)):
            shape = gang, replicas
            yield attempted(name, partial(_compared, setting, folder, name, shape, expected))


def _compared(
    setting: Setting, folder: Path, name: str, shape: tuple[int, int], expected: list[float]
) -> Row:
    with team(setting, folder, *shape) as two:
        found = _losses(two, STEPS)
    gap = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    return Row(name, {"loss": found[-1]}, (at_most("loss gap", gap, LOSS),))


def _losses(ranks: Team, steps: int, first: int = 0) -> list[float]:
    return [ranks.step(first + number).loss for number in range(steps)]
