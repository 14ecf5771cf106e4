"""Pictures as text: SVG elements, text that fits its space, scales with round ticks.

Sizes are in pixels of a page ``PAGE_WIDTH`` wide; the browser scales a picture to its window.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

PAGE_WIDTH = 1360.0

FONT = 12.5
"""Font size of most text in a picture."""

_WIDTH_OF_A_LETTER = 0.58
"""Width of a character over the font size: slightly more than the average."""

Box = tuple[float, float, float, float]
"""Left, top, width, height."""


def element(name: str, *inside: str, **attributes: object) -> str:
    """Return an element around inner elements, which are not escaped; attributes that are None are
    omitted.

    ``_`` in the name of an attribute becomes ``-``; at the end of the name it is removed.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_shown(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(inside)}</{name}>"


def rect(
    left: float, top: float, width: float, height: float, *inside: str, **attributes: object
) -> str:
    """Return a rectangle."""
    place = {"x": left, "y": top, "width": width, "height": height}
    return element("rect", *inside, **place, **attributes)


def line(left: float, top: float, right: float, bottom: float, **attributes: object) -> str:
    """Return a straight line."""
    return element("line", x1=left, y1=top, x2=right, y2=bottom, **attributes)


def words(left: float, baseline: float, content: str, *inside: str, **attributes: object) -> str:
    """Return a line of text; ``inside`` may add other elements, such as a hint."""
    return element("text", escape(content), *inside, x=left, y=baseline, **attributes)


def hint(content: str) -> str:
    """Return the hover text of the element that contains it."""
    return element("title", escape(content))


def figure(name: str, height: float, label: str, parts: Iterable[str], **attributes: object) -> str:
    """Return a complete picture, which scrolls by itself in a window that is too narrow for its
    text.

    ``label`` describes the picture for screen readers.
    """
    box = f"0 0 {PAGE_WIDTH:g} {ceil(height)}"
    named = {"id": name, "viewBox": box, "role": "img", "aria_label": label}
    return element("div", element("svg", *parts, **named, **attributes), class_="picture")


def legend(left: float, top: float, entries: Iterable[tuple[str, str]]) -> list[str]:
    """Return the legend of classes of rectangles in one row; entries are (class, meaning)."""
    parts = []
    for kind, meaning in entries:
        parts.append(rect(left, top, 14, 12, class_=kind))
        parts.append(words(left + 20, top + 10, meaning))
        left += 38 + text_width(meaning)
    return parts


def text_width(content: str, size: float = FONT) -> float:
    """Return an upper estimate of the width of a text."""
    return len(content) * size * _WIDTH_OF_A_LETTER


def fitted(content: str, width: float, size: float = FONT) -> str:
    """Return the text; if it is too wide, its middle is cut out, because names differ at their
    ends.
    """
    room = max(1, floor(width / (size * _WIDTH_OF_A_LETTER) + 1e-6))
    if len(content) <= room:
        return content
    before = (room - 1) // 2
    after = room - 1 - before
    return f"{content[:before]}…{content[len(content) - after :]}"


def fitted_list(content: str, width: float, about: str) -> str:
    """Return as much of a comma-separated list as fits; a cut list ends with ``about``."""
    if text_width(content) <= width + 1e-6:
        return content
    shown = ""
    for each in content.split(", "):
        if text_width(f"{shown}{each}, … {about}") > width:
            break
        shown += f"{each}, "
    return f"{shown}… {about}"


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from ``least`` to ``most`` along pixels from ``left`` to ``right``."""

    most: float
    left: float
    right: float
    least: float = 0.0

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        span = self.most - self.least
        return (
            self.left + (self.right - self.left) * (value - self.least) / span
            if span
            else self.left
        )

    def ticks(self, count: int = 10) -> list[float]:
        """Return about ``count`` round values: steps of 1, 2 or 5 times a power of ten."""
        span = self.most - self.least
        if not span:
            return [self.least]
        step = round_step(span / count)
        first, last = ceil(self.least / step - 0.001), floor(self.most / step + 0.001)
        return [number * step for number in range(first, last + 1)]


def round_step(rough: float) -> float:
    """Return the next larger of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _shown(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
