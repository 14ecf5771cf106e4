"""One check of a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: whether it passed (None: it could not be made), what was found, what to do."""

    what: str
    good: bool | None
    found: str
    remedy: str = ""
