"""Ranks on one card: one over NCCL, two that share it over gloo, and what trouble does to them.

Every wait here has a deadline, so trouble with one team leaves time for the next.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.gpu import failures
from benchmarks.gpu.rows import Row, Setting, at_most, attempted, holds
from benchmarks.gpu.team import Team, model_directory, team

STEPS = 3
LOSS = 1e-5
"""How far losses of the same training may differ, relative."""


def part(setting: Setting) -> Iterator[Row]:
    """Train a few steps each way; save, resume, and compare the bits."""
    with model_directory() as folder:
        expected: list[float] = []
        for precision in ("bf16", "fp32"):
            what = f"one rank, {precision}, saved and resumed"
            yield attempted(what, partial(_resumed, setting, folder, precision, expected))
        for name, shape in (("a gang of two", (2, 1)), ("two replicas", (1, 2))):
            yield attempted(name, partial(_compared, setting, folder, name, shape, expected))
        yield from failures.rows(setting, folder)


def _resumed(setting: Setting, folder: Path, precision: str, losses: list[float]) -> Row:
    """Save before the last step, resume, and do it again; leave the losses in ``losses``."""
    started = time.perf_counter()
    with team(setting, folder, precision=precision) as one:
        ready = time.perf_counter() - started
        losses[:] = _losses(one, STEPS - 1)
        saved = one.save(folder.parent / f"step-{precision}", STEPS - 1)
        losses += _losses(one, 1, STEPS - 1)
        digest = one.each("digest")
        one.begin(saved)
        again = _losses(one, 1, STEPS - 1)
        same = again == losses[-1:] and one.each("digest") == digest
    figures = {"loss": again[-1], "seconds to be ready": ready}
    bars = (holds("the same bits after resuming", same),)
    return Row(f"one rank, {precision}, saved and resumed", figures, bars)


def _compared(
    setting: Setting, folder: Path, name: str, shape: tuple[int, int], expected: list[float]
) -> Row:
    with team(setting, folder, shape) as two:
        found = _losses(two, STEPS)
    gap = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    return Row(name, {"loss": found[-1]}, (at_most("loss gap", gap, LOSS),))


def _losses(ranks: Team, steps: int, first: int = 0) -> list[float]:
    return [ranks.step(first + number).loss for number in range(steps)]
