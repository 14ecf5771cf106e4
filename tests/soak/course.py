"""The course of a run as somebody sees who reads its journal while it is written."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from moe.planning.failures.recorded import Happening
from pipelines.training.timeline import BEGAN, MENDED, RESIZED


@dataclass
class Course:
    """When each step was first seen done, and what the journal tells; seconds since 1970."""

    journal: Path
    steps: list[tuple[float, int]] = field(default_factory=list)
    blows: list[tuple[float, str]] = field(default_factory=list)
    _lines: list[bytes] = field(default_factory=list)
    _size: tuple[int, int] = (0, 0)

    @property
    def done(self) -> int:
        """Steps that are recorded now."""
        return self.steps[-1][1] if self.steps else 0

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records of the steps that are kept."""
        return [json.loads(line) for line in self._lines if _of_step(line)]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of a name."""
        mark = f'{{"event":"{name}"'.encode()
        return [json.loads(line) for line in self._lines if line.startswith(mark)]

    def look(self) -> None:
        """See what is new."""
        try:
            told = self.journal.stat()
            if (told.st_ino, told.st_size) == self._size:
                return
            data = self.journal.read_bytes()
        except FileNotFoundError:
            return
        self._size = told.st_ino, told.st_size
        self._lines = data[: data.rfind(b"\n") + 1].splitlines()
        last = next((line for line in reversed(self._lines) if _of_step(line)), b'{"step":0}')
        step = json.loads(last)["step"]
        if step != self.done:
            self.steps.append((time.time(), step))

    @property
    def horizon(self) -> float:
        """Seconds from the first step to the last."""
        records = self.records
        return float(records[-1]["time"] - records[0]["time"])

    @property
    def pace(self) -> float:
        """Seconds of a step to which nothing happened, with all that is between two steps.

        It is slower than in a run that nobody disturbs: where all nodes are one machine, new
        processes and new nodes load the cores of those that train.
        """
        moments = [at for at, _ in self.struck + self.blows]
        moments += [event["time"] for event in self.events(MENDED) + self.events(RESIZED)]
        return fmean(
            later["time"] - one["time"]
            for one, later in pairwise(self.records)
            if not any(one["time"] < moment <= later["time"] for moment in moments)
        )

    @property
    def resized(self) -> list[dict[str, Any]]:
        """The changes of plan that were carried out."""
        return [event for event in self.events(RESIZED) if event["changed"]]

    @property
    def taken_over(self) -> list[dict[str, Any]]:
        """The moments at which another driver, or another plan, began."""
        return [event for event in self.events(BEGAN) if not event["new"]]

    @property
    def struck(self) -> list[tuple[float, str]]:
        """When each fault happened, and which."""
        return [(float(each["time"]), str(each["fault"])) for each in self.events("fault")]

    @property
    def goodput(self) -> float:
        """The part of the time that went into steps that were kept."""
        return (len(self.records) - 1) * self.pace / self.horizon

    @property
    def restores(self) -> int:
        """How often the run started from its checkpoint."""
        return sum(event["restored"] for event in self.events(MENDED))

    @property
    def seconds_again(self) -> float:
        """The time of steps that were done twice or were broken off, at the pace of the others."""
        again = (event["lost_step"] - event["boundary"] for event in self.events(MENDED))
        return sum(max(steps, 0) for steps in again) * self.pace

    def stood_still(self, ranks: int) -> float:
        """Return the seconds in which the run recovered, or stood still for another reason."""
        lost = [each for each in self.events(MENDED) if each["replaced"] or each["restored"]]
        idle = sum(each.idle_seconds for each in self.happenings(ranks))
        return float(sum(map(total, lost)) + idle)

    def happenings(self, ranks: int) -> Iterator[Happening]:
        """Yield what the simulator is told of: losses, and standing still that is no recovery."""
        start = float(self.records[0]["time"])
        for event in self.events(MENDED):
            began, still = event["time"] - total(event), self.still_before(event)
            lost = tuple(range(ranks)) if event["restored"] else tuple(event["replaced"])
            yield Happening(max(began - start, 0.0), lost, 0.0 if lost else total(event))
            yield Happening(max(began - still - start, 0.0), (), still)
        for event in self.resized:
            seconds = total(event)
            yield Happening(max(event["time"] - seconds - start, 0.0), (), seconds)
        for at, _ in self.quiet_blows():
            yield Happening(max(at - start, 0.0), (), self.pause_after(at))

    def cause_of(self, event: dict[str, Any]) -> tuple[float, str] | None:
        """Return when that happened which a recovery mended, and what; None where unknown."""
        times = [each["time"] for each in self.events(MENDED) + self.resized + self.taken_over]
        before = max((each for each in times if each < event["time"]), default=0.0)
        harms = self.struck + [blow for blow in self.blows if blow[1] != "resize"]
        found = [each for each in harms if before < each[0] <= event["time"]]
        return min(found, default=None)

    def still_before(self, event: dict[str, Any]) -> float:
        """Return how long no step was done until a recovery began, after what it mended."""
        began, cause = event["time"] - total(event), self.cause_of(event)
        if cause is None:
            return 0.0
        last = max((at for at, _ in self.steps if at < began), default=began)
        return float(max(began - max(last, cause[0]), 0.0))

    def quiet_blows(self) -> list[tuple[float, str]]:
        """Return the drivers killed after which the next found that all could go on."""
        causes = [self.cause_of(event) for event in self.events(MENDED)]
        return [blow for blow in self.blows if blow[1] == "driver" and blow not in causes]

    def pause_after(self, moment: float) -> float:
        """Return for how long neither a step was done nor a recovery began from a moment on."""
        began = [event["time"] - total(event) for event in self.events(MENDED)]
        later = [at for at in (*(at for at, _ in self.steps), *began) if at > moment]
        return min(later, default=moment) - moment


def total(event: dict[str, Any]) -> float:
    """Return the seconds of all phases of a recovery."""
    return float(sum(event["seconds"].values()))


def _of_step(line: bytes) -> bool:
    return line.startswith(b'{"step"')
