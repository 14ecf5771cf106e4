"""The events of a run: lanes over the wall clock, and in words what was lost, healed, changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from pipelines.reporting.bins import Bin
from pipelines.reporting.happenings import KINDS, Happening, happenings
from pipelines.reporting.recorded import KEPT, Recorded
from pipelines.screen.page.chart import Chart, Line, chart
from pipelines.screen.page.lanes import Lane, Piece, lanes, legend, phase, unit_of
from pipelines.screen.page.phrases import count, seconds
from pipelines.screen.page.svg import element
from pipelines.screen.page.table import missing, section, table

_LISTED = 60
_NAMES = ("time", "step", "what", "took", "told")


def events(run: Recorded) -> Iterator[str]:
    """Yield the section."""
    yield from section("Events", _counted(run))
    if run.times is None:
        yield missing(
            "The lines of the journal have no time, so nothing can be placed on a time axis: it "
            "was written by a raymoe that did not record it yet; every run does now."
        )
        return
    begin, end = run.times
    size, unit = unit_of(end - begin)
    found = happenings(run)
    names = _phase_names(found)
    rows = list(_lanes(found, names, begin, size))
    yield lanes(rows, (0.0, (end - begin) / size), f"{unit} since the start", "Events over time")
    if names:
        yield legend([(phase(number), name) for name, number in names.items()])
    line = Line("steps done", [_at(each, begin, size) for each in run.progress.bins])
    across = f"{unit} since the start"
    yield element("div", chart(Chart("Progress", "steps done", [line], across)), class_="charts")
    yield from _listed(found, begin)


def _counted(run: Recorded) -> str:
    told = [count(run.happened.get("lost", 0), "loss", "es")]
    told.append(count(run.happened.get("mended", 0), "healing"))
    told.append(count(run.happened.get("resized", 0), "change") + " of plan")
    told.append(count(run.happened.get("checkpoint", 0), "checkpoint"))
    text = ", ".join(told)
    if run.copies:
        mean = seconds(run.copy_stall_seconds / run.copies)
        text += (
            f"; copies of ranks were whole {run.copies:,} times, training waited {mean} for each"
        )
    many = [kind for kind, number in run.happened.items() if number > KEPT]
    if many:
        text += f". Of more than {KEPT} of a kind ({', '.join(many)}) the newest are shown"
    return f"{text}."


def _lanes(
    found: Sequence[Happening], names: Mapping[str, int], begin: float, size: float
) -> Iterator[Lane]:
    """Yield a lane for each kind that happened."""
    for kind, name in KINDS.items():
        of_kind = [each for each in found if each.kind == kind]
        if of_kind:
            pieces = (_pieces(each, names, begin, size) for each in of_kind)
            yield Lane(name, [*chain.from_iterable(pieces)])


def _pieces(
    each: Happening, names: Mapping[str, int], begin: float, size: float
) -> Iterator[Piece]:
    """Yield the bar of an event; one of several phases in their colours, one after the other."""
    told = f"after step {each.step}: {each.told}" if each.step is not None else each.told
    took = f"\n{seconds(each.stop - each.start)}" if each.stop > each.start else ""
    if not each.phases:
        start, stop = (each.start - begin) / size, (each.stop - begin) / size
        yield Piece(start, stop, each.kind, told + took)
        return
    at = each.start
    for name, length in each.phases:
        start, stop = (at - begin) / size, (at + length - begin) / size
        yield Piece(start, stop, phase(names[name]), f"{told}{took}\n{name}: {seconds(length)}")
        at += length


def _phase_names(found: Sequence[Happening]) -> dict[str, int]:
    """Return the names of all phases with a number for each, in the order in which they came."""
    names: dict[str, int] = {}
    for each in found:
        for name, _ in each.phases:
            names.setdefault(name, len(names))
    return names


def _at(one: Bin, begin: float, size: float) -> Bin:
    return replace(one, start=(one.start - begin) / size, stop=(one.stop - begin) / size)


def _listed(found: Sequence[Happening], begin: float) -> Iterator[str]:
    """Yield a table of what disturbed the run, the newest if there are many."""
    told = [each for each in found if each.kind != "checkpoint"]
    if not told:
        return
    shown = told[-_LISTED:]
    left = f"; the newest {_LISTED} of {len(told)}" if len(told) > _LISTED else ""
    rows = (_row(each, begin) for each in shown)
    yield table(f"What happened besides steps and checkpoints{left}", _NAMES, rows)


def _row(each: Happening, begin: float) -> tuple[str, ...]:
    phases = ", ".join(f"{name} {seconds(length)}" for name, length in each.phases)
    took = seconds(each.stop - each.start) if each.stop > each.start else ""
    return (
        seconds(max(each.start - begin, 0.0)),
        "" if each.step is None else str(each.step),
        KINDS[each.kind],
        f"{took} ({phases})" if phases else took,
        each.told,
    )
