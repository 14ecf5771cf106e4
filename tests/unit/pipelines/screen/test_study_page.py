"""The page of a study: claims with verdicts, charts, tables."""

from lxml import html

from pipelines.screen.study_page import draw_study
from pipelines.study.findings import Chart, Claim, Findings, Table

FOUND = Findings(
    "Study <1>",
    "Two runs.",
    [
        Claim("gates <are> sharp", "section 4.1", "0.4", "0.5", "holds", "three seeds"),
        Claim("scratch wins late", "figure 1", "-0.03", "+0.1", "does not hold"),
        Claim("gates fade", "figure 3", "1.0", "1.4", "not seen at this size"),
    ],
    [Table("At the end", [{"run": "<a>", "loss": 3.14159, "tokens": 4096}])],
    [Chart("Loss", "tokens", "nats per token", {"ours": [(0.0, 3.0), (10.0, 2.0)]})],
    ["A note."],
)


def test_a_page_has_verdicts_charts_and_tables() -> None:
    page = html.fromstring(draw_study(FOUND))
    assert page.xpath("//h1/text()") == ["Study <1>"]
    rows = page.xpath("//table[caption[starts-with(., 'What is claimed')]]/tbody/tr")
    assert rows[0].xpath("./td[1]/text()") == ["gates <are> sharp"]
    assert rows[0].xpath("./td[1]/small/text()") == ["three seeds"]
    assert [row.xpath("string(./td[5])") for row in rows] == [
        "holds",
        "does not hold",
        "not seen at this size",
    ]
    assert [row.xpath("string(./td[5]/@class)") for row in rows] == ["holds", "fails", ""]
    assert "1 of 3 hold" in page.text_content()
    assert page.xpath("//figure//b/text()") == ["Loss"]
    (figures,) = page.xpath("//table[caption='At the end']/tbody/tr")
    assert figures.xpath("./td/text()") == ["<a>", "3.142", "4,096"]
