"""The page of ``raymoe inspect`` in a browser, on a desktop and on a phone."""

import json
import re
from pathlib import Path

import pytest

from moe.checkpoint.reader import Checkpoint
from moe.surgery.text import Text
from pipelines.models.inspect import inspect
from pipelines.screen.look_page import write_page
from tests import mixtures, tiny
from tests.browser.chromium import look

pytestmark = pytest.mark.browser

MEASURE = """
document.body.style.width = "WIDTHpx";
const svgs = [...document.querySelectorAll("svg")];
document.body.dataset.found = JSON.stringify({
  over: document.body.scrollWidth - document.body.clientWidth,
  widths: svgs.map((svg) => svg.getBoundingClientRect().width),
  heights: svgs.map((svg) => svg.getBoundingClientRect().height),
  outside: [...document.querySelectorAll("svg text")].filter((text) => {
    const [box, view] = [text.getBBox(), text.ownerSVGElement.viewBox.baseVal];
    return box.x < -1 || box.y < -1 || box.x + box.width > view.width + 1
      || box.y + box.height > view.height + 1;
  }).length,
});
"""


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_cut_off_and_nothing_scrolls_sideways(tmp_path: Path, width: int) -> None:
    checkpoint = Checkpoint.open(mixtures.made("skywork_moe", tmp_path / "model"))
    tokens = tiny.tokens(97, 2, 16)
    found = inspect(checkpoint, Text("text", tokens, tokens), lambda done, total: None)
    write_page(tmp_path / "page.html", found)
    seen = look(tmp_path / "page.html", MEASURE.replace("WIDTH", str(width)))
    assert not seen.complaints
    measured = json.loads(seen.page.xpath("//body")[0].get("data-found"))
    assert measured["over"] <= 0
    assert measured["outside"] == 0
    assert len(measured["widths"]) == 1 + 3 * 3
    assert min(measured["widths"]) > 150
    assert min(measured["heights"]) > 60


def test_light_and_dark_alone_tell_the_values(tmp_path: Path) -> None:
    """Colours of the scale rise in lightness, so the map reads without hue."""
    from pipelines.screen.page.heat import colour

    shades = [colour(value / 20, (0.0, 1.0)) for value in range(21)]
    light = [_lightness(shade) for shade in shades]
    assert light == sorted(light)
    assert light[-1] - light[0] > 0.6


def _lightness(shade: str) -> float:
    red, green, blue = (int(each, 16) / 255 for each in re.findall("..", shade[1:]))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
