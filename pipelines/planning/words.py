"""Numbers as the terminal shows them: runs by their ends, counts with their nouns, seconds."""

from collections.abc import Iterable, Sequence
from itertools import groupby


def span(start: int, stop: int) -> str:
    """Show a half-open span by its first and last number."""
    return str(start) if stop - start == 1 else f"{start}-{stop - 1}"


def numbers(listed: Iterable[int]) -> str:
    """Show numbers of experts or layers, runs of them by their ends."""
    runs: list[list[int]] = []
    for number in listed:
        if runs and runs[-1][1] == number:
            runs[-1][1] = number + 1
        else:
            runs.append([number, number + 1])
    return ", ".join(span(start, stop) for start, stop in runs)


def ranged(sizes: Iterable[int]) -> str:
    """Show the least and the greatest of some sizes, once where they are equal."""
    found = sorted(set(sizes))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def repeated(sizes: Sequence[int]) -> str:
    """Show sizes in a row, equal neighbours once with how many they are."""
    runs = ((size, len(list(same))) for size, same in groupby(sizes))
    return " ".join(str(size) if times == 1 else f"{size}x{times}" for size, times in runs)


def count(how_many: int, noun: str, plural: str = "s") -> str:
    """Show a count with its noun."""
    return f"{how_many} {noun}{plural if how_many != 1 else ''}"


def seconds(time: float) -> str:
    """Show seconds, three digits of them."""
    return f"{time:,.0f} s" if time >= 1000 else f"{time:.3g} s"
