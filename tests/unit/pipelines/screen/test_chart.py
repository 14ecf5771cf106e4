"""Charts of values of any size: a few round ticks, all within the axes, and lines within them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html

from pipelines.reporting.bins import LARGEST, Curve
from pipelines.screen.page.chart import BOTTOM, LEFT, RIGHT, TOP, Chart, Line, chart
from pipelines.screen.page.figures import tick_texts, value_text
from pipelines.screen.page.svg import Scale

VALUES = st.lists(st.none() | st.floats(-LARGEST, LARGEST), min_size=1, max_size=30)


def drawn(values: list[float | None]) -> html.HtmlElement:
    curve = Curve(10)
    for step, value in enumerate(values, start=1):
        curve.add(step, value)
    return html.fromstring(chart(Chart("Loss", "nats", [Line("loss", curve.bins)])))


@given(values=VALUES)
def test_whatever_the_values_all_is_within_the_axes(values: list[float | None]) -> None:
    figure = drawn(values)
    if all(value is None for value in values):
        assert "No step has a finite value" in figure.text_content()
        return
    grid = [float(each) for each in figure.xpath(".//line[@class='grid']/@y1")]
    assert 1 <= len(grid) <= 8
    assert all(TOP - 1 <= each <= BOTTOM + 1 for each in grid)
    for path in figure.xpath(".//path[@class='curve']/@d"):
        points = re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)
        assert all(LEFT <= float(x) <= RIGHT for x, _ in points)
        assert all(TOP <= float(y) <= BOTTOM + 0.1 for _, y in points)


@pytest.mark.parametrize("values", [[3.0, 3.00001], [1.0, 1.0 + 2e-16], [5e-324, 0.0], [-7.0]])
def test_values_that_hardly_differ_have_few_ticks(values: list[float | None]) -> None:
    assert 2 <= len(drawn(values).xpath(".//line[@class='grid']")) <= 8


def test_ticks_are_round_and_between_the_ends() -> None:
    assert Scale(30.0, 0, 1, 1.0).ticks(5) == [10.0, 20.0, 30.0]
    assert Scale(3.00001, 0, 1, 3.0).ticks(4) == pytest.approx([3.0, 3.000005, 3.00001], abs=1e-12)
    assert Scale(0.4, 0, 1, -0.2).ticks(3) == pytest.approx([-0.2, 0.0, 0.2, 0.4])


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([0.0, 0.1, 0.2], ["0.0", "0.1", "0.2"]),
        ([10.0, 20.0], ["10", "20"]),
        ([0.0, 5e-5, 1e-4], ["0", "5.0e-5", "1.0e-4"]),
        ([0.0, 10000.0, 20000.0], ["0", "10,000", "20,000"]),
        ([3.0, 3.00005], ["3.00000", "3.00005"]),
    ],
)
def test_ticks_have_as_many_digits_as_their_distance(ticks: list[float], texts: list[str]) -> None:
    assert tick_texts(ticks) == texts


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12.0, "12"), (0.25, "0.25"), (3.14159, "3.142"), (1e-5, "1e-05"), (-2e6, "-2M")],
)
def test_a_number_has_four_digits(value: float, text: str) -> None:
    assert value_text(value) == text
