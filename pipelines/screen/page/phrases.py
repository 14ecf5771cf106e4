"""Numbers as text: ranges by their ends, counts with their nouns, bytes and seconds."""

from collections.abc import Iterable
from math import ceil, floor

from pipelines.screen.words import runs


def span(bounds: tuple[int, int]) -> str:
    """Show a half-open span by its first and last number."""
    start, stop = bounds
    if stop <= start:
        return "none"
    return str(start) if stop - start == 1 else f"{start}\N{EN DASH}{stop - 1}"


def numbers(listed: Iterable[int]) -> str:
    """Return numbers as text, consecutive numbers as ranges."""
    return ", ".join(map(span, runs(listed))) or "none"


def count(how_many: int, noun: str, plural: str = "s") -> str:
    """Show a count with its noun."""
    return f"{how_many:,} {noun}{plural if how_many != 1 else ''}"


TIGHT = 0.9
"""A device that is fuller than this is marked."""


def fullness(used: float, room: float) -> str:
    """Return a percentage: 100% only if exactly full, more only if it exceeds the limit."""
    part = 100 * used / room
    return f"{ceil(part) if used > room else floor(part)}%"


def seconds(time: float) -> str:
    """Show seconds by three digits, in the unit that makes them readable."""
    if time >= 1 or time == 0:
        return f"{time:.3g} s" if time < 1000 else f"{time:,.0f} s"
    return f"{time * 1e3:.3g} ms" if time >= 1e-3 else f"{time * 1e6:.3g} µs"


def short(quantity: float) -> str:
    """Show a large number by three digits and a suffix."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if quantity >= size:
            scaled = quantity / (1e3 if suffix == "k" else size)
            return f"{scaled:.3g}{suffix}" if scaled < 100 else f"{scaled:.0f}{suffix}"
    return f"{quantity:,.0f}" if quantity >= 100 else f"{quantity:.3g}"
