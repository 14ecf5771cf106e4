"""What a study found as a page of its own: claims and verdicts, then charts and tables."""

from collections.abc import Iterator
from html import escape
from itertools import chain
from pathlib import Path

from pipelines.reporting.bins import Curve
from pipelines.screen.page import chart as drawing
from pipelines.screen.page.svg import element
from pipelines.screen.page.table import section, table
from pipelines.screen.report.frame import frame
from pipelines.screen.study_table import shown
from pipelines.study.findings import Chart, Claim, Findings, Points

_CLASSES = {"holds": "holds", "does not hold": "fails"}
_NAMES = ("claim", "source", "the paper's figure", "ours", "verdict")


def write_page(path: Path, found: Findings) -> None:
    """Write the page of a study."""
    path.write_text(draw_study(found), encoding="utf-8")


def draw_study(found: Findings) -> str:
    """Return the page of a study, which fetches nothing."""
    told = f"{sum(each.verdict == 'holds' for each in found.claims)} of {len(found.claims)} hold"
    tables = (
        table(each.title, list(each.rows[0]), ([*map(shown, row.values())] for row in each.rows))
        for each in found.tables
        if each.rows
    )
    parts = [
        element("p", escape(found.about)),
        *(element("p", escape(note)) for note in found.notes),
        *section("Claims", told),
        _claims(found),
        *_charts(found),
        *chain(section("Figures"), tables),
    ]
    return frame(found.title, parts)


def _claims(found: Findings) -> str:
    head = element("tr", *(element("th", escape(name), scope="col") for name in _NAMES))
    rows = (element("tr", *_cells(each)) for each in found.claims)
    told = element("caption", "What is claimed, and what was found here")
    inner = element("table", told, element("thead", head), element("tbody", *rows))
    return element("div", inner, class_="wide")


def _cells(claim: Claim) -> Iterator[str]:
    why = element("small", escape(claim.why)) if claim.why else ""
    yield element("td", escape(claim.says), "<br>" if why else "", why)
    for told in (claim.source, claim.paper, claim.ours):
        yield element("td", escape(told))
    yield element("td", escape(claim.verdict), class_=_CLASSES.get(claim.verdict))


def _charts(found: Findings) -> Iterator[str]:
    if found.charts:
        yield from section("Curves")
        yield element(
            "div", *(drawing.chart(_drawn(each)) for each in found.charts), class_="charts"
        )


def _drawn(chart: Chart) -> drawing.Chart:
    lines = [
        drawing.Line(name, _curve(points).bins, number)
        for number, (name, points) in enumerate(chart.series.items())
    ]
    return drawing.Chart(chart.title, chart.up, lines, chart.across)


def _curve(points: Points) -> Curve:
    curve = Curve()
    for x, y in points:
        curve.add(x, y)
    return curve
