"""What the timeline of a run holds besides its steps, and the goodput that follows from it.

Every line of the journal has ``time``, the wall clock in seconds since 1970 when it was written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

BEGAN, LOST, MENDED, REPLAYED = "began", "lost", "mended", "replayed"
"""Events: the ranks train under a plan; ranks are lost; all ranks stand together again; the steps
that were lost are done again.
"""
WAITS = "waits"
"""An event: after a loss there is nothing to do but wait, as for nodes."""
STAYS = "stays"
"""An event: ranks of a node that goes stay there, because there is nothing better to do."""
RESIZED = "resized"
"""An event: the plan has changed, or could not be changed."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Who trains: the membership epoch, the nodes with their ranks, the warm processes ready."""

    epoch: int
    ranks_by_node: Mapping[str, list[int]]
    spares: int


NOBODY = Scene(0, {}, 0)
"""Before the ranks have met."""


@dataclass(frozen=True, slots=True)
class Began:
    """Ranks train under a plan from ``boundary`` on.

    ``new``: they are the first of their command line; else a driver took them over
    (``taken_over``), or the plan has changed.
    """

    boundary: int
    replicas: int
    ranks: int
    new: bool
    taken_over: bool = False


class Goodput:
    """The part of the time since training began that went into steps that are kept.

    A run that was stopped and continued begins anew: nobody trained in between.
    """

    def __init__(self, began: float | None = None) -> None:
        self._began = began
        self._kept = 0.0

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> "Goodput":
        """Return that of a journal, in which no step is twice."""
        found = cls()
        for record in records:
            if record.get("event") == BEGAN and record["new"]:
                found = cls(record["time"])
            elif "event" not in record:
                found.keep(record["step_seconds"])
        return found

    def keep(self, seconds: float) -> None:
        """Count a step."""
        self._kept += seconds

    def at(self, now: float) -> float | None:
        """Return the fraction; None before training has begun."""
        if self._began is None or now <= self._began:
            return None
        return self._kept / (now - self._began)


def to_do_again(records: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the step up to which lost steps are still to be done again; None if none are."""
    wanted: int | None = None
    for record in records:
        if record.get("event") == MENDED:
            wanted = max(wanted or 0, record["lost_step"])
        elif record.get("event") == REPLAYED or (record.get("event") == BEGAN and record["new"]):
            wanted = None
    return wanted


def restarts(records: Iterable[Mapping[str, Any]]) -> int:
    """Return how often the driver, or all ranks, were started anew since the run was started."""
    found = 0
    for record in records:
        if record.get("event") == BEGAN:
            found = 0 if record["new"] else found + record.get("taken_over", False)
        elif record.get("event") == MENDED:
            found += record["restored"]
    return found


def newest_checkpoint(records: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the record of the checkpoint that was complete last; None without any."""
    saved = [record for record in records if record.get("event") == "checkpoint"]
    return saved[-1] if saved else None
