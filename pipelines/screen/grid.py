"""Tables of the planning commands: tight on 80 columns, with room to breathe on wide terminals."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

NARROW = 80
_WIDE = 110


def grid(width: int, title: str | None = None, caption: str | None = None) -> Table:
    """Return an empty table for a terminal of so many columns."""
    return Table(
        title=title,
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1) if is_wide(width) else 0,
    )


def heading(text: str, width: int) -> str:
    """Return a heading of several lines in one where it fits; ``~`` cuts a word at a line's end."""
    if not is_wide(width):
        return text.replace("~", "-")
    return text.replace("~\n", "").replace("-\n", "-").replace("\n", " ")


def is_wide(width: int) -> bool:
    """Tell whether a terminal has room beside what a table needs."""
    return width >= _WIDE
