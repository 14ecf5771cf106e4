"""A run as its journal has it: curves over the steps, the events, what each rank took.

A journal may come from an older version, from a run that failed, or from elsewhere: what is missing
or no number is left out and counted, and nothing of it is trusted to be short or safe to show.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from cluster.journal import JOURNAL, records
from moe.errors import ConfigError
from moe.planning.schedules.schedule import BACKWARD, FORWARD, INPUT, WEIGHT, Action
from moe.planning.schedules.simulate import Event
from pipelines.reporting.bins import Curve, number
from pipelines.reporting.experts import Experts

SCALARS = (
    "loss",
    "learning_rate",
    "gradient_norm",
    "step_seconds",
    "tokens_per_second",
    "flops_per_second",
    "mfu",
    "drop_rate",
    "balance_loss",
    "z_loss",
    "device_loss",
    "bubble",
    "communication",
    "goodput",
)
"""Numbers of a step that are drawn over the steps."""

KEPT = 400
"""Events of one kind that are kept, the newest."""

EVENTS = (
    "began",
    "checkpoint",
    "fault",
    "lost",
    "waits",
    "mended",
    "resized",
    "stays",
)
"""Events that are drawn; copies are counted, and what is known of others follows from these."""


@dataclass(slots=True)
class Recorded:
    """What a journal holds.

    ``times`` are the wall clock of the first and the last line that has one, in seconds since 1970,
    and ``progress`` are steps over that clock. ``peaks`` are the bytes of the last step, by rank.
    ``timeline`` is the newest step that was traced, and its events by stage.
    """

    name: str
    directory: Path
    steps: int = 0
    last_step: int = 0
    tokens: float = 0.0
    curves: dict[str, Curve] = field(default_factory=dict)
    experts: Experts = field(default_factory=Experts)
    kept: dict[str, deque[tuple[int, Mapping[str, Any]]]] = field(default_factory=dict)
    happened: dict[str, int] = field(default_factory=dict)
    copies: int = 0
    copy_stall_seconds: float = 0.0
    times: tuple[float, float] | None = None
    progress: Curve = field(default_factory=Curve)
    peaks: tuple[float, ...] = ()
    timeline: tuple[int, tuple[tuple[Event, ...], ...]] | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the next line of the journal."""
        moment = number(record.get("time"))
        if moment is not None:
            self.times = (self.times or (moment, moment))[0], moment
        if "event" in record:
            self._event(record)
        else:
            self._step(record, moment)

    @property
    def events(self) -> list[Mapping[str, Any]]:
        """The events that are kept, in their order."""
        kept = (each for kind in self.kept.values() for each in kind)
        return [event for _, event in sorted(kept, key=lambda each: each[0])]

    def last(self, name: str) -> float | None:
        """Return the last value of a number; None where it never was one."""
        curve = self.curves.get(name)
        return None if curve is None else curve.last

    def _step(self, record: Mapping[str, Any], moment: float | None) -> None:
        step = number(record.get("step"))
        if step is None:
            return
        self.steps += 1
        self.last_step = int(step)
        if moment is not None:
            self.progress.add(moment, step)
        self.tokens += number(record.get("tokens")) or 0.0
        for name in SCALARS:
            if name in record:
                curve = self.curves.setdefault(name, Curve())
                curve.add(step, number(record[name]))
        self.experts.add(step, record.get("layers"))
        self.peaks = _numbers(record.get("peak_memory_bytes")) or self.peaks
        events = _events(record.get("timeline"))
        if events:
            self.timeline = self.last_step, events

    def _event(self, record: Mapping[str, Any]) -> None:
        kind = record["event"]
        if kind == "copies":
            self.copies += 1
            self.copy_stall_seconds += number(record.get("stall_seconds")) or 0.0
        elif kind in EVENTS:
            self.happened[kind] = self.happened.get(kind, 0) + 1
            newest = self.kept.setdefault(kind, deque(maxlen=KEPT))
            newest.append((sum(self.happened.values()), record))


def read_run(path: Path) -> Recorded:
    """Read the journal of a run: of its directory, its run file, or the journal itself."""
    journal = journal_of(path)
    found = Recorded(journal.absolute().parent.name, journal.absolute().parent)
    for record in records(journal):
        found.add(record)
    return found


def journal_of(path: Path) -> Path:
    """Return the journal that a path means; ConfigError where it means none."""
    if path.is_dir():
        if (path / JOURNAL).is_file():
            return path / JOURNAL
        inside = sorted(each.parent.name for each in path.glob(f"*/{JOURNAL}"))
        hint = f"; give one of {', '.join(inside[:8])} in it" if inside else ""
        raise ConfigError(
            f"{path} has no {JOURNAL}, so it is no directory of a run{hint}; a run's directory is "
            "checkpoint.path of its run file"
        )
    if path.suffix == ".toml" and path.is_file():
        from moe.config.run import load_run

        return load_run(path).checkpoint.path / JOURNAL
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist; give the directory of a run (checkpoint.path) or its run file"
        )
    return path


def _numbers(told: Any) -> tuple[float, ...]:
    found = [number(each) for each in told] if isinstance(told, list) else []
    return tuple(each for each in found if each is not None) if None not in found else ()


def _events(told: Any) -> tuple[tuple[Event, ...], ...]:
    """Return what stages did in a traced step; nothing where a part of it cannot be read."""
    try:
        found = tuple(tuple(_event(*each) for each in stage) for stage in told or ())
    except (TypeError, ValueError):
        return ()
    return found if all(found) else ()


def _event(kind: str, chunk: int, micro_batch: int, start: float, stop: float) -> Event:
    if kind not in (FORWARD, BACKWARD, INPUT, WEIGHT) or not 0 <= start <= stop < inf:
        raise ValueError(kind)
    return Event(Action(kind, int(chunk), int(micro_batch)), float(start), float(stop))
