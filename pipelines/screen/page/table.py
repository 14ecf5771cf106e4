"""Tables, cards and sentences of a page."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from pipelines.screen.page.svg import element

Card = tuple[str, str, str, str]
"""Name, value, note, and ``bad``, ``tight`` or empty."""


def table(caption: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, which scrolls by itself where the page is too narrow; cells are escaped."""
    head = element("tr", *(element("th", escape(name), scope="col") for name in names))
    body = (element("tr", *(element("td", escape(cell)) for cell in row)) for row in rows)
    told = element("caption", escape(caption))
    inner = element("table", told, element("thead", head), element("tbody", *body))
    return element("div", inner, class_="wide")


def cards(shown: Iterable[Card]) -> str:
    """Return the numbers that a reader looks for first."""
    return element("dl", *(_card(*each) for each in shown))


def section(heading: str, about: str = "") -> Iterator[str]:
    """Yield a heading, and a paragraph below it if there is something to say."""
    yield element("h2", escape(heading))
    if about:
        yield element("p", escape(about))


def missing(told: str) -> str:
    """Return the sentence that stands where nothing was recorded."""
    return element("p", escape(told), class_="missing")


def _card(what: str, value: str, about: str, state: str) -> str:
    return element(
        "div",
        element("dt", escape(what)),
        element("dd", escape(value), class_=f"value {state}".rstrip()),
        element("dd", escape(about)),
    )
