"""Records every step and event of a run in its journal and in its metrics."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.commands import LayerReport, StepReport
from actors.engine.copying import Copied
from actors.faults.armed import FaultPlan
from cluster.journal import JOURNAL, Journal, read
from moe.planning.plan.plan import Plan
from pipelines.training.health import Health
from pipelines.training.measuring import RunMetrics, gauges
from pipelines.training.mended import Lost, Mended, Stays, Waiting
from pipelines.training.rescaled import NotRescaled, Rescaled
from pipelines.training.saving import Saved
from pipelines.training.timeline import (
    BEGAN,
    LOST,
    MENDED,
    REPLAYED,
    RESIZED,
    STAYS,
    WAITS,
    Began,
    Goodput,
    Scene,
    newest_checkpoint,
    restarts,
    to_do_again,
)

logger = logging.getLogger(__name__)


class RunRecord:
    """The record of one run; continues the journal of an earlier writer."""

    def __init__(self, directory: Path, metrics: RunMetrics) -> None:
        self._journal = Journal(directory / JOURNAL)
        self._metrics = metrics
        self._empty_said = False
        self._marks: set[str] | None = None
        self._epoch = 0
        self._copied: int | None = None
        self._goodput = Goodput()
        self._again: int | None = None
        self._restarts = 0
        records = self._read()
        self._metrics.starts(self._restarts, newest_checkpoint(records))

    def rewind(self, step: int) -> None:
        """Remove the records of steps above ``step``, which are done again."""
        self._journal.truncate_after(step)
        self._read()

    def last_step(self) -> int:
        """Return the last step recorded."""
        return max(
            (record["step"] for record in recorded_steps(self._journal.path.parent)), default=0
        )

    def began(self, began: Began, scene: Scene, plan: Plan) -> None:
        """Record that ranks train under a plan; copies of another plan are of no use."""
        self._copied = None
        self._event(BEGAN, asdict(began), scene)
        self._read()
        self._metrics.trains(plan, self._restarts)

    def step(self, report: StepReport) -> None:
        """Record one step; log a warning at the first step in which no label counts."""
        if report.tokens == 0 and not self._empty_said:
            self._empty_said = True
            logger.warning(
                "no label counts in the rows of step %d: they hold no token of an answer, or one "
                "token of each document, so there is nothing to predict. The loss of such a step "
                "is 0 and it has no gradient; tokenize with a longer --sequence-length, or longer "
                "documents",
                report.step,
            )
        now = time.time()
        self._goodput.keep(report.seconds)
        own = {"time": now, "epoch": self._epoch, "goodput": self._goodput.at(now)}
        self._journal.append(journal_line(report) | self._metrics.work(report) | own)
        self._metrics.step(report, self._of_the_run(own, report.step))
        if self._again is not None and report.step >= self._again:
            self._again = None
            self._event(REPLAYED, {"boundary": report.step})

    def checkpoint(self, saved: Saved) -> None:
        """Record a complete checkpoint and its cost."""
        cost = {
            "checkpoint_stall_seconds": saved.stall_seconds,
            "checkpoint_seconds": saved.seconds,
        }
        place = {"step": saved.step, "directory": saved.directory}
        self._event("checkpoint", place | cost)
        self._metrics.checkpoint(saved)

    def copied(self, copied: Copied) -> None:
        """Record copies of all ranks that have become whole."""
        self._copied = copied.step
        self._event("copies", asdict(copied))
        self._metrics.copied(copied)

    def stays(self, told: Stays, scene: Scene) -> None:
        """Record why the ranks of a node that goes stay there."""
        self._event(STAYS, {"boundary": told.step, "reason": told.reason}, scene)

    def loss(self, news: Lost | Waiting | Mended, scene: Scene) -> None:
        """Record a loss as the driver learns of it, or how the run goes on after it, or waits."""
        if isinstance(news, Waiting):
            self._event(WAITS, asdict(news), scene)
            self._metrics.stands("waiting")
        elif isinstance(news, Lost):
            self._lost(news, scene)
        else:
            self._mended(news, scene)

    def resized(self, news: Rescaled | NotRescaled, scene: Scene) -> None:
        """Record a change of plan, or that it failed."""
        told = asdict(news)
        changed = isinstance(news, Rescaled)
        self._event(RESIZED, {"boundary": told.pop("step"), "changed": changed, **told}, scene)
        self._metrics.resized(news)

    def _lost(self, lost: Lost, scene: Scene) -> None:
        self._event(LOST, asdict(lost) | {"copy_age": self._copy_age(lost.done)}, scene)
        self._metrics.stands("mending")

    def _mended(self, mended: Mended, scene: Scene) -> None:
        """Record how the run goes on after a loss, and forget the steps that are done again."""
        self._journal.truncate_after(mended.step)
        if mended.restored:
            self._copied = None
        told = asdict(mended)
        self._event(MENDED, {"boundary": told.pop("step"), **told}, scene)
        self._read()
        self._metrics.mended(mended, self._restarts)

    def spares(self, ready: int) -> None:
        """Record how many warm processes are ready."""
        self._metrics.spares(ready)

    def health(self, step: int, spares: int) -> Health:
        """Return how the run stands after a step, with so many warm processes."""
        return Health(step, self._goodput.at(time.time()), self._copy_age(step), spares)

    def faults(self, plan: FaultPlan) -> None:
        """Record which faults a run is to suffer, and each one that has happened since the last
        call.
        """
        if not plan.faults:
            return
        if self._marks is None:
            self._event("faults", {"faults": [str(each) for each in plan.faults]})
            events = read(self._journal.path)
            self._marks = {each["mark"] for each in events if each.get("event") == "fault"}
        for each in plan.spent():
            mark, moment = str(each.mark), each.when()
            if mark not in self._marks and moment is not None:
                self._marks.add(mark)
                told = {"fault": str(each.fault), "time": moment, "mark": mark}
                self._event("fault", told)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _read(self) -> list[dict[str, Any]]:
        """Take from the journal what follows from it, as a driver does that replaces another."""
        records = read(self._journal.path)
        self._goodput = Goodput.of(records)
        self._again = to_do_again(records)
        self._restarts = restarts(records)
        return records

    def _event(self, name: str, told: Mapping[str, Any], scene: Scene | None = None) -> None:
        """Add an event to the journal with its time; a scene says who trains from now on."""
        if scene is not None:
            self._epoch = scene.epoch
            told = {**told, **asdict(scene)}
        self._journal.append({"event": name, "time": time.time(), **told})

    def _of_the_run(self, own: Mapping[str, Any], step: int) -> dict[str, float]:
        """Return the gauges that are no part of a report, as far as they are known."""
        age = self._copy_age(step)
        known = {"epoch": self._epoch, "goodput": own["goodput"], "copy_age": age}
        return {name: value for name, value in known.items() if value is not None}

    def _copy_age(self, step: int) -> int | None:
        return None if self._copied is None else step - self._copied


def recorded_steps(directory: Path) -> list[dict[str, Any]]:
    """Return the step records in the journal of a run, oldest first, without events."""
    return [record for record in read(directory / JOURNAL) if "event" not in record]


def journal_line(report: StepReport) -> dict[str, Any]:
    """Return the journal record of a step."""
    layers = {str(number): _measured(layer) for number, layer in report.layers.items()}
    return {
        "step": report.step,
        **{name: value for name, value in gauges(report).items() if name != "step"},
        "tokens": report.tokens,
        "computed_tokens": report.computed_tokens,
        "drop_rate": report.drop_rate,
        "peak_memory_bytes": list(report.peak_bytes),
        "compute_seconds": list(report.compute_seconds),
        "bubble": report.bubble,
        "communication": report.communication,
        "layers": layers,
        **_timeline(report),
    }


def _timeline(report: StepReport) -> dict[str, Any]:
    """Return the events of a step that was traced, by stage; times in seconds, to microseconds."""
    if not report.timeline:
        return {}
    stages = [
        [[*event.action, round(event.start, 6), round(event.stop, 6)] for event in events]
        for events in report.timeline
    ]
    return {"timeline": stages}


def _measured(layer: LayerReport) -> dict[str, Any]:
    return {name: value for name, value in asdict(layer).items() if value is not None}
