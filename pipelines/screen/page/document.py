"""A page of ours: one HTML file that fetches nothing, written as a whole or not at all."""

import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from moe.errors import RaymoeError
from pipelines.screen.page.svg import element


def document(
    title: str, styles: Sequence[str], body: Iterable[str], refresh_seconds: int | None = None
) -> str:
    """Return a page under a heading; ``styles`` are files beside this one.

    With ``refresh_seconds`` a browser loads the page again after so long.
    """
    again = f'<meta http-equiv="refresh" content="{refresh_seconds}">'
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            *([] if refresh_seconds is None else [again]),
            f"<title>{escape(title)}</title>",
            element("style", *map(own, styles)),
            "</head><body>",
            f"<h1>{escape(title)}</h1>",
            *body,
            "</body></html>\n",
        ]
    )


def own(name: str) -> str:
    """Return the text of a file beside this one."""
    return files("pipelines.screen.page").joinpath(name).read_text(encoding="utf-8")


def write_document(path: Path, page: str, failure: type[RaymoeError]) -> None:
    """Write a page; readers see the old or the new one. Raises ``failure`` where that cannot be."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(page, encoding="utf-8", errors="replace")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise failure(
            f"cannot write the page to {path}: {error.strerror}; choose another file"
        ) from error
