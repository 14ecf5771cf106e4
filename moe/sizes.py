"""Bytes as people read them: three digits and a unit, and more digits where two must differ."""

_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
_DIGITS = 3


def size(count: float, digits: int = _DIGITS) -> str:
    """Show a number of bytes in the unit that makes it readable: ``1.91 GB``, ``41.2 MB``."""
    for unit, scale in _UNITS:
        if count >= scale:
            amount = count / scale
            decimals = max(0, digits - len(str(int(amount))))
            return f"{amount:,.{decimals}f} {unit}"
    return f"{count:.0f} bytes"


def two_sizes(one: int, other: int) -> tuple[str, str]:
    """Show two numbers of bytes that are compared, with as many digits as tell them apart."""
    for digits in range(_DIGITS, 12):
        shown = size(one, digits), size(other, digits)
        if one == other or shown[0] != shown[1]:
            return shown
    return f"{one:,} bytes", f"{other:,} bytes"
