"""Numbers of bytes in words, in the unit that shows them."""

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_MORE_DECIMALS = 9
"""With so many more, sizes in GB are exact to the byte."""


def size_text(size: float, more: int = 0) -> str:
    """Return a size: ``43.5 GB``, ``0.25 GB``, ``98.3 MB``, ``17 bytes``; with more decimals."""
    for unit, name in _UNITS:
        if size >= 0.1 * unit:
            decimals = (1 if size >= 10 * unit else 2) + more
            return f"{size / unit:,.{decimals}f} {name}"
    return f"{size:.0f} bytes"


def unlike_texts(one: float, other: float) -> tuple[str, str]:
    """Return two sizes with as many decimals as tell them apart."""
    more = 0
    while more < _MORE_DECIMALS and size_text(one, more) == size_text(other, more):
        more += 1
    return size_text(one, more), size_text(other, more)
