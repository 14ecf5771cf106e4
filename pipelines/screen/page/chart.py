"""A chart: lines over an axis with a title, units, round ticks, a legend and a table of its values.

It is as wide as its column; its text is sized for a phone. Lines differ by colour and by dashes,
and a line of many values joined has a band from the least to the most of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from pipelines.reporting.bins import Bin
from pipelines.screen.page.figures import tick_texts, value_text
from pipelines.screen.page.svg import Scale, element, hint, line, rect, words

WIDTH, HEIGHT = 520.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 508.0, 26.0, 212.0
COLOURS = 6
"""Lines that a chart can tell apart; the style sheet has a colour and dashes for each."""
_STRIPS = 48
_ROWS = 12
_SMALLEST, _LIKE = 1e-100, 1e-9
"""Values below the first are drawn as zeros; values that differ by a smaller part, as equal."""
_NEAR_ZERO = 0.35
"""A scale of positive values begins at 0 where the least is below this part of the most."""


@dataclass(frozen=True, slots=True)
class Line:
    """A curve with its name; ``colour`` from 0 to ``COLOURS`` - 1."""

    name: str
    bins: Sequence[Bin]
    colour: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a place of the x axis."""

    x: float
    kind: str
    told: str


@dataclass(frozen=True, slots=True)
class Chart:
    """``unit`` is of the y axis, ``across`` the name of the x axis. ``about`` stands below the
    title.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    across: str = "step"
    marks: Sequence[Mark] = ()
    about: str = ""


def chart(drawn: Chart) -> str:
    """Return the figure; without a single value, a sentence in its place."""
    lines = [each for each in drawn.lines if any(one.count for one in each.bins)]
    caption = element("figcaption", element("b", escape(drawn.title)), _about(drawn.about))
    if not lines:
        nothing = element("p", "No step has a finite value of it.")
        return element("figure", caption, nothing, class_="chart")
    x, y = _scales(lines)
    parts = [
        *_axes(drawn, x, y),
        *_marks(drawn.marks, x),
        *(part for each in lines for part in _band(each, x, y)),
        *(_path(each, x, y) for each in lines),
        *_strips(drawn, lines, x),
    ]
    label = f"{drawn.title}: {'; '.join(_summary(each, drawn) for each in lines)}"
    svg = element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_label=label,
    )
    return element("figure", caption, svg, *_legend(lines), _table(drawn, lines), class_="chart")


def _about(about: str) -> str:
    return f" {element('span', escape(about))}" if about else ""


def _scales(lines: Sequence[Line]) -> tuple[Scale, Scale]:
    bins = [each for line_ in lines for each in line_.bins if each.count]
    left, right = min(each.start for each in bins), max(each.stop for each in bins)
    if left == right:
        left, right = left - 1, right + 1
    least, most = min(each.least for each in bins), max(each.most for each in bins)
    size = max(abs(least), abs(most))
    if size < _SMALLEST:
        least, most = 0.0, 1.0
    elif most - least < _LIKE * size:
        least, most = least - 0.1 * size, most + 0.1 * size
    elif 0 <= least <= _NEAR_ZERO * most:
        least = 0.0
    room = 0.05 * (most - least)
    low = least if least == 0 else least - room
    return Scale(right, LEFT + 6, RIGHT - 4, left), Scale(most + room, BOTTOM, TOP + 6, low)


def _axes(drawn: Chart, x: Scale, y: Scale) -> Iterator[str]:
    """Yield ticks with their numbers, and what both axes are."""
    ticks = y.ticks(4)
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        at = y.at(tick)
        yield line(LEFT, at, RIGHT, at, class_="grid")
        yield words(LEFT - 7, at + 4, text, class_="right quiet")
    ticks = [tick for tick in x.ticks(5) if x.least <= tick]
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        at = x.at(tick)
        yield line(at, BOTTOM, at, BOTTOM + 4, class_="tick")
        yield words(at, BOTTOM + 17, text, class_="middle quiet")
    yield line(LEFT, BOTTOM, RIGHT, BOTTOM, class_="axis")
    yield words(4, 13, drawn.unit, class_="unit")
    yield words((LEFT + RIGHT) / 2, HEIGHT - 4, drawn.across, class_="middle unit")


def _marks(marks: Sequence[Mark], x: Scale) -> Iterator[str]:
    for mark in marks:
        if x.least <= mark.x <= x.most:
            at = x.at(mark.x)
            upright = line(at, TOP, at, BOTTOM, class_=f"mark {mark.kind}")
            flag = rect(at - 4, TOP - 4, 8, 6, class_=f"mark {mark.kind}")
            yield element("g", hint(mark.told), upright, flag)


def _runs(bins: Sequence[Bin]) -> Iterator[list[Bin]]:
    """Yield neighbours that have values; between two of these there are none."""
    run: list[Bin] = []
    for each in bins:
        if each.count:
            run.append(each)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _band(drawn: Line, x: Scale, y: Scale) -> Iterator[str]:
    for run in _runs(drawn.bins):
        if len(run) > 1 and any(each.least < each.most for each in run):
            above = [f"{x.at(each.middle):.1f} {y.at(each.most):.1f}" for each in run]
            below = [f"{x.at(each.middle):.1f} {y.at(each.least):.1f}" for each in reversed(run)]
            yield element(
                "path", d=f"M{'L'.join(above + below)}z", class_=f"band line-{drawn.colour}"
            )


def _path(drawn: Line, x: Scale, y: Scale) -> str:
    """Return the line through the means; a value without neighbours is a dot."""
    parts, dots = [], []
    for run in _runs(drawn.bins):
        points = [(x.at(each.middle), y.at(each.mean)) for each in run]
        if len(points) == 1:
            dots.append(element("circle", cx=points[0][0], cy=points[0][1], r=3, class_="dot"))
        parts.append("M" + "L".join(f"{left:.1f} {top:.1f}" for left, top in points))
    path = element("path", d="".join(parts), class_="curve")
    return element("g", path, *dots, class_=f"line-{drawn.colour}")


def _strips(drawn: Chart, lines: Sequence[Line], x: Scale) -> Iterator[str]:
    """Yield what a hand over the chart is told of each part of it."""
    width = (x.right - x.left) / _STRIPS
    told: dict[int, list[str]] = {}
    for each in lines:
        for one in each.bins:
            if one.count:
                strip = min(_STRIPS - 1, int((x.at(one.middle) - x.left) / width))
                name = f"{each.name}: " if len(lines) > 1 else ""
                told.setdefault(strip, []).append(f"{name}{_place(one, drawn)}, {_value(one)}")
    for strip, said in sorted(told.items()):
        left = x.left + strip * width
        shown = [*said[:: max(1, len(said) // 4)]]
        yield rect(left, TOP, width, BOTTOM - TOP, hint("\n".join(shown)), class_="strip")


def _place(one: Bin, drawn: Chart) -> str:
    start, stop = value_text(one.start), value_text(one.stop)
    return f"{drawn.across} {start}" + ("" if start == stop else f" to {stop}")


def _value(one: Bin) -> str:
    if one.least == one.most:
        return value_text(one.mean)
    return f"{value_text(one.mean)} ({value_text(one.least)} to {value_text(one.most)})"


def _summary(drawn: Line, whole: Chart) -> str:
    found = [each for each in drawn.bins if each.count]
    least, most = min(each.least for each in found), max(each.most for each in found)
    return (
        f"{drawn.name}, in {whole.unit}, from {value_text(found[0].mean)} at {whole.across} "
        f"{value_text(found[0].start)} to {value_text(found[-1].mean)} at {whole.across} "
        f"{value_text(found[-1].stop)}, least {value_text(least)}, most {value_text(most)}"
    )


def _legend(lines: Sequence[Line]) -> Iterator[str]:
    if len(lines) < 2:
        return
    entries = []
    for each in lines:
        swatch = element("path", d="M1 6H27", class_="curve")
        group = element("g", swatch, class_=f"line-{each.colour}")
        sample = element("svg", group, viewBox="0 0 28 12", aria_hidden="true")
        entries.append(element("li", sample, escape(each.name)))
    yield element("ul", *entries, class_="legend")


def _table(drawn: Chart, lines: Sequence[Line]) -> str:
    """Return a dozen values of each line, for those who read and do not look."""
    rows = []
    for each in lines:
        found = [one for one in each.bins if one.count]
        every = max(1, -(-len(found) // _ROWS))
        chosen = [*found[:-1:every], found[-1]]
        for one in chosen:
            cells = [_place(one, drawn), value_text(one.mean)]
            cells += [value_text(one.least), value_text(one.most)]
            name = [element("th", escape(each.name), scope="row")] if len(lines) > 1 else []
            rows.append(element("tr", *name, *(element("td", escape(cell)) for cell in cells)))
    names = [*(["line"] if len(lines) > 1 else []), drawn.across, "mean", "least", "most"]
    head = element("tr", *(element("th", escape(name), scope="col") for name in names))
    unit = element("caption", f"{escape(drawn.title)}, {escape(drawn.unit)}")
    inner = element("table", unit, element("thead", head), element("tbody", *rows))
    summary = element("summary", "as a table")
    return element("details", summary, element("div", inner, class_="wide"))
