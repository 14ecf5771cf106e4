"""The curves of one or more runs: loss, speed, waiting, gradient, learning rate."""

from collections.abc import Iterator, Sequence

from pipelines.reporting.bins import Bin
from pipelines.reporting.happenings import Happening, happenings
from pipelines.reporting.recorded import Recorded
from pipelines.screen.page.chart import Chart, Line, Mark, chart
from pipelines.screen.page.svg import element
from pipelines.screen.page.table import missing, section

_MARKED = {"loss": "loss", "resize": "change of plan", "start": "start"}
"""Kinds of events that are marked over the steps."""

_ONE_EACH = (
    ("loss", "Loss", "nats per token", "Cross entropy of each step."),
    ("tokens_per_second", "Speed", "tokens per second", "All devices together."),
    ("step_seconds", "Duration of a step", "seconds", ""),
    ("gradient_norm", "Gradient norm", "no unit", "Of all parameters, before clipping."),
    ("learning_rate", "Learning rate", "no unit", ""),
    ("flops_per_second", "Useful work", "GFLOP/s", "Counted by active parameters and tokens."),
    ("mfu", "MFU", "fraction of the data-sheet peak", "Useful work over the peak of all GPUs."),
    ("goodput", "Goodput", "fraction", "Time in steps that were kept, of all time so far."),
)


def training(runs: Sequence[Recorded]) -> Iterator[str]:
    """Yield the section."""
    shown = [_chart(runs, *each) for each in _ONE_EACH if _has(runs, each[0])]
    if len(runs) == 1 and _has(runs, "bubble"):
        shown.insert(3, _waiting(runs[0]))
    yield from section("Training", _about(runs))
    yield from _without(runs)
    yield element("div", *map(chart, shown), class_="charts")


def _chart(runs: Sequence[Recorded], name: str, title: str, unit: str, about: str) -> Chart:
    lines = [
        Line(run.name if len(runs) > 1 else title, _in_units(run, name), colour)
        for colour, run in enumerate(runs)
        if name in run.curves
    ]
    lost = [_lost(run, name) for run in runs]
    told = " ".join([about, *(each for each in lost if each)]).strip()
    return Chart(title, unit, lines, marks=marks(runs[0]) if len(runs) == 1 else (), about=told)


def _in_units(run: Recorded, name: str) -> Sequence[Bin]:
    """Return a curve in the unit in which it is drawn."""
    bins = run.curves[name].bins
    return [each.times(1e-9) for each in bins] if name == "flops_per_second" else bins


def marks(run: Recorded) -> tuple[Mark, ...]:
    """Return the events of a run that are marked over its steps."""
    return tuple(
        Mark(each.step, each.kind, f"{_MARKED[each.kind]} after step {each.step}: {each.told}")
        for each in _marked(run)
        if each.step is not None
    )


def _marked(run: Recorded) -> list[Happening]:
    """Return the events; not the first start, where every run begins."""
    found = [each for each in happenings(run) if each.kind in _MARKED]
    return [each for each in found if each.kind != "start" or each.step]


def _waiting(run: Recorded) -> Chart:
    lines = [
        Line("bubble and end", run.curves["bubble"].bins, 0),
        Line("sums over gangs and replicas", run.curves["communication"].bins, 1),
    ]
    about = "Mean over the ranks; the rest of a step is computing."
    return Chart("Waiting", "fraction of the step", lines, about=about)


def _about(runs: Sequence[Recorded]) -> str:
    joined = any(curve.joined for run in runs for curve in run.curves.values())
    about = "A long run has several steps in a point: the line is their mean, the band their least "
    told = [about + "and most."] if joined else []
    if len(runs) == 1 and marks(runs[0]):
        told.append("Upright lines mark losses, changes of plan and starts.")
    return " ".join(told)


def _without(runs: Sequence[Recorded]) -> Iterator[str]:
    """Yield what the runs did not record, and what would have."""
    if not _has(runs, "loss"):
        yield missing("The journal has no step yet: the first one is written when it is done.")
        return
    if not _has(runs, "mfu"):
        yield missing(
            "No MFU: a run records it where all its ranks are on GPUs of the table of data sheets "
            "(moe/planning/devices/rates.py); a CPU has no peak there."
        )
    if not _has(runs, "bubble"):
        yield missing(
            "No bubble and no communication: the journal was written by a raymoe that did not "
            "record them yet; every run does now."
        )


def _has(runs: Sequence[Recorded], name: str) -> bool:
    return any(name in run.curves for run in runs)


def _lost(run: Recorded, name: str) -> str:
    """Return the sentence on values that are no finite numbers."""
    curve = run.curves.get(name)
    if curve is None or not curve.lost:
        return ""
    first = ", ".join(f"{step:g}" for step in curve.missing[:3])
    more = ", ..." if curve.lost > 3 else ""
    return f"{curve.lost:,} steps have no finite value: {first}{more}."
