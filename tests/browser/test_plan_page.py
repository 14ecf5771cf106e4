"""The page of a plan in a browser: all is drawn, words do not overlap, nothing goes wrong."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from moe.config.model import ModelConfig
from moe.config.presets import preset
from moe.planning.counts.workload import MEGATRON, Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import Link
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import Prediction, predict
from moe.planning.search.make import even_layers
from moe.planning.search.pins import Pins
from moe.planning.search.search import Question, search
from pipelines.screen.plan_page import write_page
from tests.browser.chromium import look, photograph
from tests.plans import SMOLLM2, with_experts

pytestmark = pytest.mark.browser

COLOURS = {
    "weights": (0x00, 0x72, 0xB2),
    "activations": (0x00, 0x9E, 0x73),
    "forward": (0x56, 0xB4, 0xE9),
    "backward": (0xE6, 0x9F, 0x00),
    "embedding": (0xA8, 0xDC, 0xC9),
}
"""What must be seen as an area of one colour."""

FIND_FAULTS = """
const found = { overlapping: [], outside: [], tight: [] };
for (const svg of document.querySelectorAll("svg")) {
  const { width, height } = svg.viewBox.baseVal;
  const texts = [...svg.querySelectorAll("text")].filter((text) => !text.closest("defs"));
  const boxes = texts.map((text) => [text.textContent, text.getBBox()]);
  for (const [words, box] of boxes) {
    if (box.x < 0 || box.x + box.width > width || box.y < 0 || box.y + box.height > height)
      found.outside.push(words);
  }
  boxes.forEach(([words, one], place) => {
    for (const [others, other] of boxes.slice(place + 1)) {
      const across = Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x);
      const down = Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y);
      if (across > 0 && down > 1) found.overlapping.push(`${words} / ${others}`);
    }
  });
  for (const piece of svg.querySelectorAll(".piece")) {
    const [box, text] = [piece.querySelector("rect"), piece.querySelector("text")];
    if (text && text.getBBox().width > box.getBBox().width) found.tight.push(text.textContent);
  }
}
document.body.dataset.found = JSON.stringify(found);
"""

ZOOM = """
const svg = document.getElementById("timeline");
const bounds = svg.getBoundingClientRect();
const scale = bounds.width / svg.viewBox.baseVal.width;
const state = () => [...svg.querySelectorAll("[data-name=planned] .piece")].map((piece) => {
  const box = piece.querySelector("rect");
  const shown = piece.style.display !== "none";
  return [shown, Number(box.getAttribute("x")), Number(box.getAttribute("width"))];
});
const mouse = (kind, x) => svg.dispatchEvent(new MouseEvent(kind, {
  bubbles: true, clientX: bounds.left + x * scale, clientY: bounds.top + 80,
}));
const { left, right } = svg.dataset;
const at = (part) => Number(left) + part * (right - left);
const states = [state()];
for (const [kind, part] of [["mousedown", 0.25], ["mousemove", 0.4], ["mouseup", 0.5]])
  mouse(kind, at(part));
states.push(state());
mouse("dblclick", at(0.5));
states.push(state());
const over = svg.querySelector("[data-batch]");
over.dispatchEvent(new MouseEvent("mousemove", { bubbles: true, clientX: 5, clientY: 5 }));
document.body.dataset.states = JSON.stringify(states);
"""


SIZES = """
const shown = (each) => each.getBoundingClientRect();
const labels = [...document.querySelectorAll("svg text")].filter((text) => !text.closest("defs"));
document.body.dataset.sizes = JSON.stringify({
  window: window.innerWidth,
  page: document.documentElement.scrollWidth,
  cards: [...document.querySelectorAll("dl div")].map((card) => shown(card).width),
  values: [...document.querySelectorAll("dd.value")].map((value) => shown(value).height),
  labels: Math.min(...labels.map((label) => {
    const svg = label.closest("svg");
    const scale = shown(svg).width / svg.viewBox.baseVal.width;
    return parseFloat(getComputedStyle(label).fontSize) * scale;
  })),
});
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A plan with its page."""

    config: ModelConfig
    plan: Plan
    planned: Prediction
    page: Path


def smollm2() -> Question:
    devices = tuple(Device(f"local/{n}", "local", "cpu", 6 * 10**9) for n in range(2))
    pins = Pins(stages=2, gang=1, replicas=1, micro_batch=1)
    return Question(with_experts(SMOLLM2, 4), Inventory(devices), Workload(512, 1, 8), 8, pins)


def skywork() -> Question:
    devices = tuple(
        Device(f"a800-{node:03d}/{gpu}", f"a800-{node:03d}", "A800", 80 * 2**30)
        for node in range(192)
        for gpu in range(8)
    )
    links = (Link(("*",), 200e9, 1e-5), Link(("*", "*"), 50e9, 2e-5))
    pins = Pins(stages=12, gang=4, replicas=32, micro_batch=1)
    work = Workload(8192, 1, 32, numerics=MEGATRON)
    config = preset("skywork-moe-146b").config
    return Question(config, Inventory(devices, links), work, 1024, pins)


@pytest.fixture(scope="module", params=[smollm2, skywork], ids=["smollm2", "skywork"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    question: Question = request.param()
    config, there = question.config, question.inventory
    found = search(question)
    planned = predict(config, found.plan, there, found.workload)
    even = predict(config, even_layers(found.plan), there, found.workload)
    page = tmp_path_factory.mktemp("page") / "plan.html"
    write_page(page, config, found.plan, there, planned, even)
    return Case(config, found.plan, planned, page)


def test_all_is_drawn_and_no_words_overlap(case: Case) -> None:
    seen = look(case.page, FIND_FAULTS)
    assert seen.complaints == ()
    page, ranks, gang = seen.page, range(case.plan.ranks), case.plan.gang_size
    rows = page.xpath("//svg[@id='holdings']/g[@class='rank']")
    assert [int(row.get("data-rank")) for row in rows] == list(ranks)
    for rank, row in enumerate(rows):
        start, stop = case.plan.stages[rank // gang].layers
        assert len(row.xpath("./g[@data-layer]")) == stop - start
    bars = page.xpath("//svg[@id='memory']//g[@class='bar']")
    assert [int(bar.get("data-rank")) for bar in bars] == list(ranks)
    assert all(len(bar.xpath("./rect[@class='limit']")) == 1 for bar in bars)
    work = 2 * case.planned.workload.micro_batches * len(case.plan.stages)
    for chart in page.xpath("//svg[@id='timeline']/g[@class='chart']"):
        assert sum(map(int, chart.xpath(".//@data-pieces"))) == work
    assert len(page.xpath("//svg[@id='timeline']/g[@class='chart']")) == 2
    shades = page.xpath("//svg[@id='timeline']/text/text()")
    assert {"odd micro-batches are lighter, here a forward pass", "waiting: the bubble"} <= {
        *shades
    }
    (found,) = page.xpath("//body/@data-found")
    assert json.loads(found) == {"overlapping": [], "outside": [], "tight": []}


def test_a_marked_part_of_the_step_is_shown_larger(case: Case) -> None:
    seen = look(case.page, ZOOM)
    assert seen.complaints == ()
    (states,) = seen.page.xpath("//body/@data-states")
    before, zoomed, after = json.loads(states)
    assert all(shown for shown, *_ in before)
    kept = [place for place, (shown, *_) in enumerate(zoomed) if shown]
    assert 0 < len(kept) < len(before)
    edges = [(zoomed[place][1], sum(zoomed[place][1:])) for place in kept]
    left, right = (float(seen.page.xpath(f"//svg/@data-{end}")[0]) for end in ("left", "right"))
    inside = [place for place, edge in zip(kept, edges, strict=True) if left < edge[0]]
    inside = [place for place in inside if sum(zoomed[place][1:]) < right - 1]
    assert inside
    for place in inside:
        assert zoomed[place][2] == pytest.approx(4 * before[place][2], abs=2.5)
    for (_, x, width), (shown, again_x, again_width) in zip(before, after, strict=True):
        assert shown
        assert (again_x, again_width) == pytest.approx((x, width), abs=0.02)
    assert "from 0 s to" in seen.page.xpath("//div[@id='told']")[0].text_content()


@pytest.mark.parametrize("width", [500, 1400])
def test_cards_wrap_labels_are_readable_and_the_page_does_not_scroll_sideways(
    case: Case, width: int
) -> None:
    """Chromium has no window narrower than 500 pixels."""
    (sizes,) = look(case.page, SIZES, width).page.xpath("//body/@data-sizes")
    found = json.loads(sizes)
    assert found["page"] <= found["window"] == width
    assert all(size >= 160 for size in found["cards"])
    assert max(found["values"]) < 40
    assert found["labels"] > 8


def test_a_photograph_shows_the_colours(case: Case) -> None:
    seen = photograph(case.page, 1400, 2600)
    assert seen.shape == (1300, 700, 3)
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 200
    for name, colour in COLOURS.items():
        assert (np.abs(seen.astype(int) - colour).max(axis=2) < 6).sum() > 300, name
