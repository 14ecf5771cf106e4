"""Tables of the planning commands: dense on 80 columns, spaced on wide terminals."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

NARROW = 80
_WIDE = 110


def grid(width: int, title: str | None = None, caption: str | None = None) -> Table:
    """Return an empty table for a terminal of ``width`` columns."""
    return Table(
        title=title,
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1) if is_wide(width) else 0,
    )


def heading(text: str, width: int) -> str:
    """Return a multi-line heading in one line if it fits; ``~`` marks a word break at a line's
    end.
    """
    if not is_wide(width):
        return text.replace("~", "-")
    return text.replace("~\n", "").replace("-\n", "-").replace("\n", " ")


def is_wide(width: int) -> bool:
    """Return whether a terminal is wider than a table needs."""
    return width >= _WIDE
