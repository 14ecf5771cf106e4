"""A table of claims: a paper's figure, ours, and whether it holds; with charts, one page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from pipelines.screen.page.chart import Chart, chart
from pipelines.screen.page.svg import element
from pipelines.screen.page.table import section
from pipelines.screen.report.frame import frame

Verdict = Literal["holds", "does not hold", "not seen at this scale", "not measured"]
_CLASSES = {"holds": "holds", "does not hold": "fails"}
_NAMES = ("claim", "source", "the paper's figure", "ours", "verdict")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a source says, its figure, ours, and what these come to; figures with their units."""

    claim: str
    source: str
    theirs: str
    ours: str
    verdict: Verdict


def claims_page(title: str, about: str, claims: Sequence[Claim], charts: Sequence[Chart]) -> str:
    """Return a page with the table and, below it, the charts."""
    told = f"{sum(each.verdict == 'holds' for each in claims)} of {len(claims)} hold"
    parts = [
        element("p", escape(about)),
        *section("Claims", told),
        _table(claims),
        *_charts(charts),
    ]
    return frame(title, parts)


def _table(claims: Sequence[Claim]) -> str:
    head = element("tr", *(element("th", escape(name), scope="col") for name in _NAMES))
    rows = (element("tr", *_cells(each)) for each in claims)
    told = element("caption", "What is claimed, and what was found here")
    inner = element("table", told, element("thead", head), element("tbody", *rows))
    return element("div", inner, class_="wide")


def _cells(each: Claim) -> Iterator[str]:
    for told in (each.claim, each.source, each.theirs, each.ours):
        yield element("td", escape(told))
    yield element("td", escape(each.verdict), class_=_CLASSES.get(each.verdict))


def _charts(charts: Sequence[Chart]) -> Iterator[str]:
    if charts:
        yield from section("Measurements")
        yield element("div", *map(chart, charts), class_="charts")
