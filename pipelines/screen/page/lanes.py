"""Lanes over one axis: what happened when, a lane for each kind. HTML, so that text keeps its size
on a phone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from pipelines.screen.page.figures import tick_texts
from pipelines.screen.page.svg import Scale, element

_TICKS = 5
_PHASES = 9
"""Colours of phases in the style sheet."""

UNITS = ((3 * 86400.0, 86400.0, "days"), (3 * 3600.0, 3600.0, "hours"), (180.0, 60.0, "minutes"))
"""From how many seconds on a time is shown in another unit, and the seconds of the unit."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Something on a lane from start to stop, in the unit of the axis; ``kind`` is its class."""

    start: float
    stop: float
    kind: str
    told: str


@dataclass(frozen=True, slots=True)
class Lane:
    """A row with its name."""

    name: str
    pieces: Sequence[Piece]


def unit_of(seconds: float) -> tuple[float, str]:
    """Return the seconds and the name of a unit in which a length of time reads well."""
    for least, size, name in UNITS:
        if seconds >= least:
            return size, name
    return 1.0, "seconds"


def phase(number: int) -> str:
    """Return the class of the phase of this number."""
    return f"phase-{number % _PHASES}"


def lanes(rows: Sequence[Lane], span: tuple[float, float], unit: str, label: str) -> str:
    """Return the rows above an axis of the unit."""
    start, stop = span
    scale = Scale(stop if stop > start else start + 1, 0.0, 100.0, start)
    drawn = (element("div", *_row(each, scale), class_="lane") for each in rows)
    return element("div", *drawn, axis(scale, unit), class_="lanes", role="img", aria_label=label)


def axis(scale: Scale, unit: str) -> str:
    """Return the axis below lanes, with its unit in the place of a name."""
    ticks = scale.ticks(_TICKS)
    marks = (
        element("span", escape(text), style=f"left:{scale.at(tick):.2f}%")
        for tick, text in zip(ticks, tick_texts(ticks), strict=True)
    )
    name = element("span", escape(unit), class_="unit")
    return element("div", name, element("div", *marks, class_="ticks"), class_="lane")


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Return what colours mean; entries are (class, meaning)."""
    listed = (
        element("li", element("i", class_=kind), escape(meaning)) for kind, meaning in entries
    )
    return element("ul", *listed, class_="legend")


def _row(lane: Lane, scale: Scale) -> Iterator[str]:
    yield element("span", escape(lane.name))
    pieces = []
    for each in lane.pieces:
        left, right = (min(max(scale.at(end), 0.0), 100.0) for end in (each.start, each.stop))
        place = f"left:min({left:.3f}%, 100% - 3px);width:{right - left:.3f}%"
        pieces.append(element("i", class_=each.kind, style=place, title=each.told))
    yield element("div", *pieces, class_="track")
