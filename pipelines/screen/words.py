"""Numbers as the terminal shows them: ranges by their ends, counts with their nouns, GB,
seconds.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby


def span(start: int, stop: int) -> str:
    """Show a half-open span by its first and last number."""
    return str(start) if stop - start == 1 else f"{start}-{stop - 1}"


def numbers(listed: Iterable[int]) -> str:
    """Return numbers of experts or layers as text, consecutive numbers as ranges."""
    return ", ".join(span(*run) for run in runs(listed))


def runs(listed: Iterable[int]) -> list[tuple[int, int]]:
    """Return the half-open spans of consecutive numbers."""
    found: list[tuple[int, int]] = []
    for number in listed:
        if found and found[-1][1] == number:
            found[-1] = found[-1][0], number + 1
        else:
            found.append((number, number + 1))
    return found


def ranged(sizes: Iterable[int]) -> str:
    """Return the smallest and the largest size as text; one number if they are equal."""
    found = sorted(set(sizes))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def repeated(sizes: Sequence[int]) -> str:
    """Return sizes as text; equal neighbours appear once, with their count."""
    counted = ((size, len(list(same))) for size, same in groupby(sizes))
    return " ".join(str(size) if times == 1 else f"{size}x{times}" for size, times in counted)


def count(how_many: int, noun: str, plural: str = "s") -> str:
    """Show a count with its noun."""
    return f"{how_many} {noun}{plural if how_many != 1 else ''}"


def seconds(time: float) -> str:
    """Show seconds by three digits."""
    return f"{time:,.0f} s" if time >= 1000 else f"{time:.3g} s"


def gigabytes(size: float) -> str:
    """Return bytes in GB; small values have two significant digits."""
    return f"{size / 1e9:.1f}" if size >= 1e8 or not size else f"{size / 1e9:.2g}"


def compared_gigabytes(need: float, have: float) -> str:
    """Return needed over available GB, ``5.5/12.0``; with more digits if the need is too large."""
    digits = 1
    while need > have and f"{need / 1e9:.{digits}f}" == f"{have / 1e9:.{digits}f}" and digits < 9:
        digits += 1
    if digits > 1:
        return f"{need / 1e9:.{digits}f}/{have / 1e9:.{digits}f}"
    return f"{gigabytes(need)}/{gigabytes(have)}"
