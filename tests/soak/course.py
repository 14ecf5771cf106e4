"""The course of a run as somebody sees who reads its journal while it is written."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from moe.planning.failures.recorded import Happening

_TAIL = 2**16
_CLEAN = 3.0
"""Steps that took longer than so many medians were disturbed."""


@dataclass
class Course:
    """When each step was first seen done, and each recovery; seconds since 1970."""

    journal: Path
    steps: list[tuple[float, int]] = field(default_factory=list)
    mended: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    blows: list[tuple[float, str]] = field(default_factory=list)
    _identity: tuple[int, int] = (0, 0)

    @property
    def done(self) -> int:
        """Steps that are recorded now."""
        return self.steps[-1][1] if self.steps else 0

    def look(self) -> None:
        """See what is new."""
        try:
            told = self.journal.stat()
            if (told.st_ino, told.st_size) == self._identity:
                return
            data = self.journal.read_bytes()
        except FileNotFoundError:
            return
        self._identity = told.st_ino, told.st_size
        now = time.time()
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        step = next((json.loads(line)["step"] for line in reversed(lines) if _of_step(line)), 0)
        if step != self.done:
            self.steps.append((now, step))
        for event in _events(lines, "mended")[len(self.mended) :]:
            self.mended.append((now, event))
        self.faults = _events(lines, "fault")

    @property
    def horizon(self) -> float:
        """Seconds from the first step to the last."""
        return self.steps[-1][0] - self.steps[0][0]

    @property
    def pace(self) -> float:
        """Seconds of an undisturbed step, with all that is between two steps."""
        spans = [
            ((later - sooner) / (done - before), done - before)
            for (sooner, before), (later, done) in pairwise(self.steps)
            if done > before
        ]
        usual = median(span for span, _ in spans)
        clean = [(span, count) for span, count in spans if span < _CLEAN * usual]
        return sum(span * count for span, count in clean) / sum(count for _, count in clean)

    @property
    def goodput(self) -> float:
        """The part of the time that went into steps that were kept."""
        return (self.done - self.steps[0][1]) * self.pace / self.horizon

    def happenings(self, ranks: int) -> Iterator[Happening]:
        """Yield what the simulator is told of: losses, and standing still before they are seen."""
        start = self.steps[0][0]
        for seen, event in self.mended:
            began = max(seen - total(event) - start, 0.0)
            lost = tuple(range(ranks)) if event["restored"] else tuple(event["replaced"])
            yield Happening(began, lost, 0.0 if lost else total(event))
            still = self.still_before(seen, event)
            if still:
                yield Happening(max(began - still, 0.0), (), still)
        for at, kind in self.blows:
            if kind == "driver":
                yield Happening(max(at - start, 0.0), (), self.pause_after(at))

    def cause_of(self, seen: float, event: dict[str, Any]) -> tuple[float, str] | None:
        """Return when that happened which a recovery mended, and what; None where unknown."""
        before = max((at for at, _ in self.mended if at < seen), default=0.0)
        struck = [(float(fault["time"]), str(fault["fault"])) for fault in self.faults]
        struck += [blow for blow in self.blows if blow[1] != "driver"]
        return min((each for each in struck if before < each[0] <= seen), default=None)

    def still_before(self, seen: float, event: dict[str, Any]) -> float:
        """Return how long no step was done until a recovery began, after what it mended."""
        began, cause = seen - total(event), self.cause_of(seen, event)
        if cause is None:
            return 0.0
        last = max((at for at, _ in self.steps if at < began), default=began)
        return max(began - max(last, cause[0]), 0.0)

    def pause_after(self, moment: float) -> float:
        """Return for how long no step was done from a moment on."""
        return next((at for at, _ in self.steps if at > moment), moment) - moment


def total(event: dict[str, Any]) -> float:
    """Return the seconds of all phases of a recovery."""
    return float(sum(event["seconds"].values()))


def _of_step(line: bytes) -> bool:
    return line.startswith(b'{"step"')


def _events(lines: list[bytes], name: str) -> list[dict[str, Any]]:
    mark = f'{{"event":"{name}"'.encode()
    return [json.loads(line) for line in lines if line.startswith(mark)]
