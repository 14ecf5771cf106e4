"""The page of a run: what is in it, what it says where nothing was recorded, hostile content."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from lxml import html

from moe.errors import ConfigError
from pipelines.reporting.recorded import read_run
from pipelines.screen.report.follow import follow
from pipelines.screen.report.page import draw_report, write_report
from tests import journals

EVIL = '</title><script>alert("x")</script><img src=x onerror=alert(1)>\x00\ud800&amp;'


def page_of(directory: Path, lines: list[dict[str, Any]], tail: str = "") -> html.HtmlElement:
    return html.fromstring(draw_report([read_run(journals.written(directory, lines, tail))]))


def headings(page: html.HtmlElement) -> list[str]:
    return [each.text_content() for each in page.xpath("//h2")]


def titles(page: html.HtmlElement) -> list[str]:
    return [each.text_content() for each in page.xpath("//figure[contains(@class,'chart')]//b")]


def test_a_run_has_its_curves_its_experts_and_its_events(tmp_path: Path) -> None:
    page = page_of(tmp_path / "demo", journals.eventful())
    assert headings(page) == [
        "Training",
        "Experts",
        "Events",
        "Plan",
        "Where the weights come from",
    ]
    shown = titles(page)
    for title in ("Loss", "Speed", "Waiting", "Drop rate", "Balance coefficient", "Progress"):
        assert title in shown
    assert {"Similarity of experts by layer", "Sharpness of the gate by layer"} <= {*shown}
    lanes = [each.text_content() for each in page.xpath("//div[@class='lane']/span")]
    assert lanes[:4] == ["start, or a new driver", "loss", "healing", "change of plan"]
    healing = page.xpath("//i[contains(@class,'phase-2')]/@title")
    assert any("process: 1.5 s" in each for each in healing)
    assert "rank 1 died" in page.xpath("//table")[-1].getparent().getparent().text_content()


def test_every_chart_has_axes_with_units_a_title_a_table_and_words(tmp_path: Path) -> None:
    page = page_of(tmp_path, journals.eventful())
    charts = page.xpath("//figure[@class='chart'][svg]")
    assert len(charts) > 12
    for each in charts:
        unit, across = each.xpath("./svg/text[contains(@class,'unit')]/text()")
        assert unit
        assert across in ("step", "minutes since the start")
        assert len(each.xpath("./svg/line[@class='grid']")) >= 2
        title = each.xpath("./figcaption/b/text()")[0]
        assert each.xpath("./svg/@aria-label")[0].startswith(title)
        assert each.xpath(".//table/caption")
        assert len(each.xpath(".//tbody/tr")) >= 2


def test_what_was_not_recorded_is_said_with_the_option_that_records_it(tmp_path: Path) -> None:
    lines = [journals.step(n, bubble=None, communication=None, time=None) for n in (2, 3)]
    for line in lines:
        line.pop("flops_per_second")
    told = " ".join(page_of(tmp_path, lines).xpath("//p[@class='missing']/text()"))
    for words in ("monitor.every", "No MFU", "bubble", "have no time", "checkpoint.every"):
        assert words in told, words


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path, [], tail='{"step": 1')
    assert "no step yet" in page.text_content()
    assert not page.xpath("//figure")


def test_nothing_is_fetched_and_hostile_text_stays_text(tmp_path: Path) -> None:
    directory = tmp_path / "<b>run<script>alert(1)<"
    lines = journals.eventful()
    for line in lines:
        line |= {key: EVIL for key in ("cause", "reason", "shape") if key in line}
    lines.append({"event": EVIL, "time": 1.0, EVIL: EVIL})
    lines.append({"event": "mended", "time": journals.BEGAN + 1, "seconds": {EVIL: 1.0}})
    lines.append(journals.step(41, loss=float("nan")) | {EVIL: 3, "layers": {EVIL: {"load": [1]}}})
    write_report(tmp_path / "page.html", [read_run(journals.written(directory, lines))])
    text = (tmp_path / "page.html").read_text()
    page = html.fromstring(text)
    assert len(page.xpath("//script")) == 1
    assert not page.xpath("//img | //b[text()='run'] | //@onerror | //@onclick")
    assert not page.xpath("//link[not(starts-with(@href,'data:'))] | //@src | //iframe")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "1 steps have no finite value: 41" in page.text_content()


def test_a_hundred_thousand_steps_are_a_small_page_in_seconds(tmp_path: Path) -> None:
    lines = (
        journals.step(n, layers=2, loss=90.0 if n == 77_777 else 3.0, peak_memory_bytes=None)
        for n in range(1, 100_001)
    )
    directory = journals.written(tmp_path, lines)
    began = time.process_time()
    text = draw_report([read_run(directory)])
    assert time.process_time() - began < 40
    assert len(text) < 2_000_000
    loss = next(each for each in html.fromstring(text).xpath("//svg/@aria-label") if "Loss" in each)
    assert "most 90" in loss


def test_several_runs_share_their_curves(tmp_path: Path) -> None:
    runs = [
        read_run(journals.written(tmp_path / name, journals.eventful(steps)))
        for name, steps in (("short", 20), ("long", 40))
    ]
    page = html.fromstring(draw_report(runs))
    loss = page.xpath("//figure[@class='chart'][.//b[text()='Loss']]")[0]
    assert loss.xpath("./ul[@class='legend']/li//text()") == ["short", "long"]
    assert len(loss.xpath("./svg/g[contains(@class,'line-')]")) == 2
    assert "Run short" in headings(page)
    with pytest.raises(ConfigError, match="at most 6 runs apart, 7 are given"):
        draw_report([runs[0]] * 7)


def test_the_page_is_written_again_while_the_run_goes_on(tmp_path: Path) -> None:
    run, page = tmp_path / "run", tmp_path / "page.html"
    lines = journals.eventful()
    journals.written(run, lines[:6])
    seen: list[str] = []

    def wait(seconds: float) -> None:
        assert seconds >= 3
        seen.append(page.read_text())
        if len(seen) == 4:
            raise KeyboardInterrupt
        if len(seen) > 1:
            journals.written(run, lines[: 6 * len(seen)])

    assert follow(page, [run], 3, wait)
    assert all('http-equiv="refresh" content="3"' in each for each in seen)
    assert seen[0] == seen[1]
    assert len({*seen}) == 3
    last = page.read_text()
    assert "refresh" not in last
    steps = html.fromstring(last).xpath("//dl/div[dt='steps done']/dd/text()")[0]
    assert steps == str(max(each.get("step", 0) for each in lines[:18]))
