"""Heat maps as SVG: cells in one scale of colours, with their numbers where there is room."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from pipelines.screen.page.svg import element, hint, rect, words

_CELL, _LEAST_WITH_NUMBER, _LEFT, _TOP = 30.0, 24.0, 26.0, 18.0
_BELOW = 4.0
_LETTER, _BETWEEN = 6.2, 8.0
"""Width of a digit of a name, and pixels between two names."""
_MAP_WIDTH = 420.0
_STOPS = (
    (0x00, 0x20, 0x4D),
    (0x31, 0x44, 0x6B),
    (0x66, 0x69, 0x70),
    (0x95, 0x8F, 0x78),
    (0xCB, 0xBA, 0x69),
    (0xFF, 0xEA, 0x46),
)
"""Cividis (Nunez, Anderton and Renslow 2018) at six even places, dark for little."""

_DARK = 0.55
"""Part of the scale below which numbers in cells are white."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What rows and columns are, and the names of columns; empty: their numbers."""

    row: str = "expert"
    column: str = "expert"
    heads: Sequence[str] = ()

    def head(self, across: int) -> str:
        """The name of a column."""
        return self.heads[across] if self.heads else str(across)


EXPERTS = Sides()


def heat_map(
    values: Sequence[Sequence[float | None]],
    names: Sequence[str],
    span: tuple[float, float],
    label: str,
    sides: Sides = EXPERTS,
) -> str:
    """Return a map whose rows have names; ``label`` describes it for screen readers.

    Values outside ``span`` have the colours of its ends; None is no cell.
    """
    columns = len(values[0])
    cell = _size(columns)
    width, height = map_width(columns), _TOP + cell * len(values) + _BELOW
    parts = [*_headings(names, columns, cell, sides)]
    for down, line in enumerate(values):
        for across, value in enumerate(line):
            if value is None:
                continue
            place = _LEFT + across * cell, _TOP + down * cell
            where = f"{sides.row} {names[down]}, {sides.column} {sides.head(across)}"
            about = f"{where}: {value:.4g}"
            parts.append(_cell(place, cell, value, span, about))
    box = f"0 0 {width:g} {height:g}"
    drawn = element(
        "svg", *parts, viewBox=box, role="img", aria_label=label, style=f"max-width:{width:g}px"
    )
    return element("div", drawn, class_="heat", style=f"--least:{min(width, 6 * columns + 40):g}px")


def map_width(columns: int) -> float:
    """Return the width of a map of so many columns, in pixels, where it has room."""
    return _LEFT + _size(columns) * columns


def scale_bar(low: float, high: float) -> str:
    """Return the scale of colours with its ends."""
    stops = ", ".join(_hex(colour) for colour in _STOPS)
    bar = element("span", class_="bar", style=f"background:linear-gradient(to right, {stops})")
    return element("div", f"{low:.4g} ", bar, f" {high:.4g}", class_="scale")


def colour(value: float, span: tuple[float, float]) -> str:
    """Return the colour of a value as CSS."""
    place = _part(value, span) * (len(_STOPS) - 1)
    before = min(int(place), len(_STOPS) - 2)
    part = place - before
    pair = zip(_STOPS[before], _STOPS[before + 1], strict=True)
    mixed = [round(one + (other - one) * part) for one, other in pair]
    return _hex((mixed[0], mixed[1], mixed[2]))


def _size(columns: int) -> float:
    return max(6.0, min(_CELL, _MAP_WIDTH / columns))


def _cell(
    place: tuple[float, float], size: float, value: float, span: tuple[float, float], about: str
) -> str:
    left, top = place
    box = rect(left, top, size, size, hint(about), fill=colour(value, span), class_="cell")
    if size < _LEAST_WITH_NUMBER:
        return box
    shade = "on-dark" if _part(value, span) < _DARK else "on-light"
    shown = f"{value:.2f}".removeprefix("0") if abs(value) < 10 else f"{value:.0f}"
    number = words(left + size / 2, top + size / 2 + 3.5, shown, class_=f"value {shade}")
    return box + number


def _headings(names: Sequence[str], columns: int, cell: float, sides: Sides) -> Iterator[str]:
    """Yield the names of rows and of columns, as many as have room."""
    widest = max(len(sides.head(across)) for across in range(columns)) * _LETTER
    every = max(1, ceil((widest + _BETWEEN) / cell))
    for across in range(0, columns, every):
        middle = _LEFT + (across + 0.5) * cell
        if across and middle + widest / 2 > _LEFT + columns * cell:
            continue
        yield words(middle, _TOP - 5, sides.head(across), class_="name middle")
    down_every = max(1, -(-12 // int(cell)))
    for down in range(0, len(names), down_every):
        yield words(_LEFT - 4, _TOP + (down + 0.5) * cell + 4, names[down], class_="name right")


def _part(value: float, span: tuple[float, float]) -> float:
    low, high = span
    return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.0


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{each:02x}" for each in colour)
