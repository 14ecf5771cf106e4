"""The events of a run on its time axis: what it was, when it began and ended, its phases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.reporting.bins import number
from pipelines.reporting.recorded import Recorded

KINDS = {
    "start": "start, or a new driver",
    "loss": "loss",
    "healing": "healing",
    "resize": "change of plan",
    "checkpoint": "checkpoint",
    "wait": "wait for nodes",
    "stay": "node goes, ranks stay",
    "fault": "fault that was asked for",
}
"""Kinds of events, and their names."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One event; ``start`` and ``stop`` in seconds since 1970, equal for a moment.

    ``phases`` are names and seconds, in their order, ending at ``stop``. ``step`` is the number of
    steps done then.
    """

    kind: str
    start: float
    stop: float
    step: int | None
    told: str
    phases: tuple[tuple[str, float], ...] = ()


def happenings(run: Recorded) -> list[Happening]:
    """Return what happened, in order; events without a time are left out."""
    found: list[Happening] = []
    for event in run.events:
        moment = number(event.get("time"))
        if moment is not None:
            found += _read(event, moment)
    return list(_until_training(found))


def _read(event: Mapping[str, Any], moment: float) -> Iterator[Happening]:
    kind = event["event"]
    step = number(event.get("step", event.get("boundary", event.get("done"))))
    at = None if step is None else int(step)
    if kind == "mended":
        phases = _phases(event.get("seconds"))
        told = f"{_how(event)}: {_text(event, 'reason')}"
        yield Happening("healing", moment - _sum(phases), moment, at, told, phases)
    elif kind == "resized":
        phases = _phases(event.get("seconds"))
        told = _text(event, "reason")
        changed = f"now {_text(event, 'shape')}" if event.get("changed") else "not changed"
        yield Happening("resize", moment - _sum(phases), moment, at, f"{changed}: {told}", phases)
    elif kind == "checkpoint":
        seconds = max(number(event.get("checkpoint_seconds")) or 0.0, 0.0)
        stall = number(event.get("checkpoint_stall_seconds")) or 0.0
        told = f"training waited for {stall:.3g} s of it"
        yield Happening("checkpoint", moment - seconds, moment, at, told)
    elif kind == "began":
        yield from _began(event, moment, at)
    else:
        kinds = {"lost": "loss", "waits": "wait", "stays": "stay", "fault": "fault"}
        key = {"lost": "cause", "fault": "fault"}.get(kind, "reason")
        yield Happening(kinds[kind], moment, moment, at, _text(event, key))


def _began(event: Mapping[str, Any], moment: float, step: int | None) -> Iterator[Happening]:
    """Yield a start; a line that only says that a plan has changed is told by the change."""
    if event.get("new"):
        ranks = number(event.get("ranks"))
        told = "a command line began" + ("" if ranks is None else f", {int(ranks)} ranks")
        yield Happening("start", moment, moment, step, told)
    elif event.get("taken_over"):
        yield Happening("start", moment, moment, step, "a new driver took the ranks over")


def _until_training(found: Sequence[Happening]) -> Iterator[Happening]:
    """Yield all; a wait lasts until the run is mended or begins."""
    for place, each in enumerate(found):
        if each.kind == "wait":
            ends = (e.stop for e in found[place:] if e.kind in ("healing", "resize", "start"))
            yield replace(each, stop=next(ends, each.stop))
        else:
            yield each


def _how(event: Mapping[str, Any]) -> str:
    if event.get("restored"):
        return "restored from a checkpoint"
    return "replanned" if event.get("replanned") else "healed"


def _phases(told: Any) -> tuple[tuple[str, float], ...]:
    if not isinstance(told, Mapping):
        return ()
    found = ((str(name), number(seconds)) for name, seconds in told.items())
    return tuple((name, max(each, 0.0)) for name, each in found if each is not None)


def _sum(phases: Sequence[tuple[str, float]]) -> float:
    return sum(seconds for _, seconds in phases)


def _text(event: Mapping[str, Any], key: str) -> str:
    """Return a short text of an event: a page shows nobody a stack trace of pages."""
    told = str(event.get(key, ""))
    return told if len(told) <= 300 else f"{told[:299]}…"
