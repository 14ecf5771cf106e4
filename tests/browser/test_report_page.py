"""The page of a run in a browser: desktop and phone, light, dark and print."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.reporting.recorded import read_run
from pipelines.screen.report.page import write_report
from tests import journals
from tests.browser.chromium import look, photograph, printed
from tests.unit.pipelines.reporting.test_planned import trained

pytestmark = pytest.mark.browser

MEASURE = """
document.body.style.width = "WIDTHpx";
document.querySelectorAll("details").forEach((each) => { each.open = true; });
const shown = (each) => each.getBoundingClientRect();
const scrolls = (each) => each.closest(".picture, .wide, .heat") !== null;
const edge = shown(document.body).right + 1;
const over = document.body.scrollWidth - document.body.clientWidth;
const found = { over, outside: [], cut: [], overlapping: [] };
for (const text of document.querySelectorAll("figure.chart svg[role] text")) {
  const [box, view] = [text.getBBox(), text.ownerSVGElement.viewBox.baseVal];
  if (box.x < -1 || box.y < -1 || box.x + box.width > view.width + 1
    || box.y + box.height > view.height + 1) found.outside.push(text.textContent);
}
for (const svg of document.querySelectorAll("figure.chart > svg")) {
  const boxes = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBBox()]);
  boxes.forEach(([words, one], place) => {
    for (const [others, other] of boxes.slice(place + 1)) {
      const across = Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x);
      const down = Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y);
      if (across > 0 && down > 1) found.overlapping.push(`${words} / ${others}`);
    }
  });
}
for (const each of document.querySelectorAll("h1, h2, h3, p, dd, dt, td, th, li, .lane span")) {
  const box = shown(each);
  if (!scrolls(each) && (box.right > edge || each.scrollWidth > each.clientWidth + 1
    && getComputedStyle(each).display !== "inline")) found.cut.push(each.textContent);
}
found.letters = Math.min(...[...document.querySelectorAll("figure.chart > svg text")].map((text) =>
  parseFloat(getComputedStyle(text).fontSize) * shown(text.ownerSVGElement).width
    / text.ownerSVGElement.viewBox.baseVal.width));
found.charts = [...document.querySelectorAll("figure.chart > svg")].map((svg) => shown(svg).width);
document.body.dataset.found = JSON.stringify(found);
"""


ASK_PRINT = """
const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
const media = rules.filter((rule) => rule.media).map((rule) => rule.media.mediaText);
document.body.dataset.found = JSON.stringify({
  dark: media.filter((text) => text.includes("dark")),
  print: media.filter((text) => text === "print").length,
});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder / "report.html", [read_run(trained(folder))])
    return folder / "report.html"


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_cut_and_nothing_scrolls_sideways(page: Path, width: int) -> None:
    seen = look(page, MEASURE.replace("WIDTH", str(width)), max(width, 500))
    assert seen.complaints == ()
    found = json.loads(seen.page.xpath("//body/@data-found")[0])
    assert found["over"] <= 0
    assert found["outside"] == found["cut"] == found["overlapping"] == []
    assert found["letters"] > 8.5
    assert len(found["charts"]) > 12
    assert min(found["charts"]) > 300


def test_long_names_and_many_runs_are_not_cut_either(tmp_path: Path) -> None:
    names = ["a-very-long-name-of-a-run-that-somebody-chose" * 2, "short"]
    runs = [
        read_run(journals.written(tmp_path / name, journals.eventful(400 + 30 * place)))
        for place, name in enumerate(names)
    ]
    write_report(tmp_path / "page.html", runs)
    for width in (390, 1400):
        seen = look(tmp_path / "page.html", MEASURE.replace("WIDTH", str(width)), max(width, 500))
        found = json.loads(seen.page.xpath("//body/@data-found")[0])
        assert found["over"] <= 0
        assert found["outside"] == found["cut"] == found["overlapping"] == []


def test_a_dark_screen_has_dark_paper_and_the_lines_of_its_scheme(page: Path) -> None:
    light = photograph(page, 1400, 1600)
    dark = photograph(page, 1400, 1600, "--blink-settings=preferredColorScheme=0")
    assert tuple(light[0, 0]) == (255, 255, 255)
    assert tuple(dark[0, 0]) == (0x14, 0x19, 0x1F)
    for picture, line in ((light, (0x00, 0x72, 0xB2)), (dark, (0x56, 0xB4, 0xE9))):
        near = np.abs(picture.astype(int) - line).max(axis=2) < 40
        assert near.sum() > 60


def test_it_is_printed_on_a_few_pages_as_light_as_paper(page: Path) -> None:
    """A dark scheme that printers would get is the commonest mistake of style sheets."""
    paper = printed(page, "--blink-settings=preferredColorScheme=0")
    assert 3 <= paper.count(b"/Type /Page\n") <= 20
    seen = look(page, ASK_PRINT)
    told = json.loads(seen.page.xpath("//body/@data-found")[0])
    assert told == {"dark": ["screen and (prefers-color-scheme: dark)"], "print": 2}
