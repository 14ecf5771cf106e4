"""Numbers as a page shows them: of ticks with as many digits as their distance, else four."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, log10

from pipelines.screen.page.phrases import short

_LARGE, _SMALL = 1e4, 1e-3
_MOST_DIGITS = 5
"""Digits behind the point that a tick has room for."""


def value_text(value: float) -> str:
    """Show a number by four digits; a whole number below a hundred thousand by all of them."""
    if value == 0:
        return "0"
    if float(value).is_integer() and abs(value) < 10 * _LARGE:
        return f"{value:,.0f}"
    if abs(value) >= 10 * _LARGE:
        return short(value) if value > 0 else f"-{short(-value)}"
    return f"{value:.3g}" if abs(value) < _SMALL else f"{value:.4g}"


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Show ticks alike."""
    most = max((abs(tick) for tick in ticks), default=0.0)
    apart = min((abs(b - a) for a, b in pairwise(ticks)), default=most) or 1.0
    if most >= _LARGE:
        return [value_text(round(tick, 6)) if tick else "0" for tick in ticks]
    if most < _SMALL:
        return [
            "0" if abs(tick) < apart / 2 else f"{tick:.1e}".replace("e-0", "e-") for tick in ticks
        ]
    digits = min(_MOST_DIGITS, max(0, ceil(-log10(apart) - 1e-6)))
    return [f"{tick + 0.0:.{digits}f}" for tick in ticks]
