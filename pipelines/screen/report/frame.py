"""The frame of reports: that of all pages, with charts, for dark screens and for print."""

from collections.abc import Iterable, Sequence

from pipelines.screen.page.document import document, own
from pipelines.screen.page.svg import element

STYLES = ("style.css", "heat.css", "report.css")


def frame(
    title: str,
    body: Iterable[str],
    scripts: Sequence[str] = ("hints.js",),
    refresh_seconds: int | None = None,
) -> str:
    """Return a page; what a script tells of a part of a picture appears beside the mouse."""
    told = element("div", id="told")
    ours = (element("script", own(each)) for each in scripts)
    return document(title, STYLES, [*body, told, *ours], refresh_seconds)
