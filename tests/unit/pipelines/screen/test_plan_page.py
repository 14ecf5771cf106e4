"""The page of a plan, read as a tree: every rank, layer, expert, byte and event is drawn."""

import sys
from dataclasses import replace
from math import isclose
from pathlib import Path
from subprocess import run

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan, RankPlan, StagePlan
from moe.planning.prediction.predict import Prediction, predict
from moe.planning.search.interleave import interleave
from moe.planning.search.make import even_layers
from moe.planning.stages.split import groups, spans, split
from pipelines.screen.comparison import comparison
from pipelines.screen.page.phrases import fullness, numbers, short
from pipelines.screen.page.svg import Scale, fitted, fitted_list, text_width
from pipelines.screen.plan_page import draw_page, write_page
from tests.examples import examples
from tests.plans import (
    FINE,
    SMOLLM2,
    any_plans,
    configs,
    device,
    inventory,
    single,
    suiting,
    with_experts,
)

WORKLOAD = Workload(sequence_length=64, micro_batch=1, micro_batches=8)


def by_hand(config: ModelConfig, *layers: int, gang: int = 1) -> Plan:
    """Return a plan of stages of so many layers on the devices of an inventory, in order."""
    heads, columns = (spans(split(size, gang)) for size in (config.kv_heads, config.ffn_size))
    experts = groups(split(config.experts, gang)) if config.moe else ((),) * gang
    stages = [
        StagePlan(
            cut,
            tuple(
                RankPlan((f"a/{number * gang + n}",), heads[n], columns[n], experts[n])
                for n in range(gang)
            ),
        )
        for number, cut in enumerate(spans(layers))
    ]
    return Plan(config.summary(), tuple(stages))


def drawn(
    config: ModelConfig, plan: Plan, there: Inventory, workload: Workload = WORKLOAD
) -> tuple[html.HtmlElement, Prediction]:
    workload = suiting(plan, workload) if workload.schedule == "1f1b" else workload
    predicted = predict(config, plan, there, workload)
    even = predict(config, even_layers(plan), there, workload)
    return html.fromstring(draw_page(config, plan, there, predicted, even)), predicted


def picture(page: html.HtmlElement, name: str) -> html.HtmlElement:
    (found,) = page.xpath(f"//svg[@id='{name}']")
    return found


@settings(max_examples=examples(15))
@given(st.data())
def test_a_cell_for_each_layer_of_each_rank_and_no_other(data: st.DataObject) -> None:
    config = data.draw(configs())
    plan = data.draw(any_plans(config))
    page, _ = drawn(config, plan, inventory(plan.ranks))
    rows = picture(page, "holdings").xpath(".//g[@class='rank']")
    assert [int(row.get("data-rank")) for row in rows] == list(range(plan.ranks))
    for seat, row in zip(plan.seats, rows, strict=True):
        share, again = plan.share(seat), plan.stages[seat.stage].recompute
        cells = row.xpath("./g[@data-layer]")
        assert [int(cell.get("data-layer")) for cell in cells] == list(share.layer_numbers)
        for layer, cell in zip(share.layer_numbers, cells, strict=True):
            experts = sorted(share.experts_of(layer)) if config.has_experts(layer) else None
            shown = cell.get("data-experts")
            assert experts == (None if shown is None else [int(each) for each in shown.split()])
            assert (layer in again) == (cell.get("data-again") == "1")
            assert (layer in again) == bool(cell.xpath("./rect[@class='again']"))
            assert (cell.get("data-kind") == "moe") == config.has_experts(layer)
        ends = [cell.get("data-kind") for cell in row.xpath("./g[@data-rows]")]
        assert ends == ["embedding"] * share.embedding + ["head"] * share.head


@settings(max_examples=examples(15))
@given(st.data())
def test_the_marks_of_a_cell_are_its_experts(data: st.DataObject) -> None:
    config = with_experts(replace(SMOLLM2, layers=3), data.draw(st.integers(1, 40)))
    plan = data.draw(any_plans(config))
    page, _ = drawn(config, plan, inventory(plan.ranks))
    for cell in page.xpath("//g[@class='cell'][@data-layer]"):
        (name,) = cell.xpath("./use/@href")
        (marks,) = page.xpath(f"//g[@id='{name[1:]}']")
        held = "".join(marks.xpath("./path[@class='held']/@d")).count("M")
        free = "".join(marks.xpath("./path[@class='free']/@d")).count("M")
        assert held == len(cell.get("data-experts").split())
        assert held + free == config.experts


@pytest.mark.parametrize("layers", [1, 900])
def test_cells_of_few_and_of_very_many_layers_fill_their_row(layers: int) -> None:
    config = with_experts(replace(SMOLLM2, layers=layers), 8)
    page, _ = drawn(config, by_hand(config, layers), inventory(1))
    boxes = page.xpath("//g[@data-layer]/rect[@class='moe']")
    lefts = [float(box.get("x")) for box in boxes]
    rights = [left + float(box.get("width")) for left, box in zip(lefts, boxes, strict=True)]
    assert len(boxes) == layers
    assert all(left < right for left, right in zip(lefts, rights, strict=True))
    assert all(right <= left for right, left in zip(rights, lefts[1:], strict=False))


@settings(max_examples=examples(12))
@given(st.data())
def test_bars_are_as_long_as_bytes_are_many(data: st.DataObject) -> None:
    config = data.draw(configs())
    plan = data.draw(any_plans(config))
    sizes = data.draw(st.lists(st.integers(10**8, 10**10), min_size=plan.ranks))
    there = Inventory(tuple(device(f"a/{n}", memory_bytes=sizes[n]) for n in range(plan.ranks)))
    page, predicted = drawn(config, plan, there)
    bars = picture(page, "memory").xpath(".//g[@class='bar']")
    assert [int(bar.get("data-rank")) for bar in bars] == list(range(plan.ranks))
    longest = max(*sizes[: plan.ranks], *(each.total for each in predicted.rank_bytes))
    for rank, bar in enumerate(bars):
        needed = predicted.rank_bytes[rank]
        parts = bar.xpath("./rect[@data-part]")
        assert int(bar.get("data-bytes")) == needed.total
        width = sum(float(part.get("width")) for part in parts)
        (limit,) = bar.xpath("./rect[@class='limit']")
        start = float(parts[0].get("x"))
        reach = float(limit.get("x")) + 1.5 - start
        assert isclose(width * sizes[rank], reach * needed.total, rel_tol=0.01, abs_tol=longest)
        assert bool(bar.xpath("./text[@class='over']")) == (needed.total > sizes[rank])


@pytest.mark.parametrize(
    ("schedule", "chunks"),
    [("1f1b", 1), ("gpipe", 1), ("zero-bubble", 1), ("zbv", 2), ("interleaved-1f1b", 3)],
)
def test_pieces_are_the_events_of_the_simulator(schedule: str, chunks: int) -> None:
    config = with_experts(SMOLLM2, 4)
    there = inventory(3)
    plan = interleave(by_hand(config, 12, 11, 7), chunks, schedule == "zbv")
    page, predicted = drawn(config, plan, there, replace(WORKLOAD, schedule=schedule))
    charts = picture(page, "timeline").xpath(".//g[@class='chart']")
    assert [chart.get("data-name") for chart in charts] == ["planned", "even layers"]
    for stage, row in enumerate(charts[0].xpath("./g[@class='stage']")):
        events = predicted.timeline.events[stage]
        pieces = row.xpath("./g[@class='piece']")
        assert len(pieces) == len(events)
        for piece, event in zip(pieces, events, strict=True):
            assert int(piece.get("data-batch")) == event.action.micro_batch
            told = f"stage {stage}, chunk {event.action.chunk}, micro-batch" in piece.text_content()
            assert told == (chunks > 1)
            assert isclose(float(piece.get("data-start")), event.start, rel_tol=1e-6, abs_tol=1e-9)
            assert isclose(float(piece.get("data-stop")), event.stop, rel_tol=1e-6)
    (end,) = charts[0].xpath("./line[@class='finish']/@data-at")
    assert isclose(float(end), predicted.step_seconds, rel_tol=1e-6)


def test_many_micro_batches_are_drawn_together_and_none_is_lost() -> None:
    workload = replace(WORKLOAD, micro_batches=1500)
    there = inventory(2)
    plan = by_hand(SMOLLM2, 18, 12)
    page, predicted = drawn(SMOLLM2, plan, there, workload)
    chart = picture(page, "timeline").xpath(".//g[@data-name='planned']")[0]
    for row in chart.xpath("./g[@class='stage']"):
        pieces = row.xpath("./g[@class='piece']")
        assert 300 < len(pieces) < 2000
        assert sum(int(piece.get("data-pieces")) for piece in pieces) == 3000
        stops = [0.0] + [float(piece.get("data-stop")) for piece in pieces]
        starts = [float(piece.get("data-start")) for piece in pieces]
        assert all(start >= stop * (1 - 1e-6) for start, stop in zip(starts, stops, strict=False))
        assert stops[-1] <= predicted.timeline.makespan * (1 + 1e-6)


def test_a_server_has_only_forward_passes_that_end_with_its_step() -> None:
    workload = replace(WORKLOAD, training=False)
    there = inventory(3)
    plan = by_hand(SMOLLM2, 12, 11, 7)
    page, predicted = drawn(SMOLLM2, plan, there, workload)
    chart = picture(page, "timeline").xpath(".//g[@data-name='planned']")[0]
    assert not chart.xpath(".//rect[contains(@class, 'backward')]")
    last = max(float(stop) for stop in chart.xpath(".//g[@class='piece']/@data-stop"))
    assert isclose(last, predicted.step_seconds, rel_tol=1e-6)


def test_the_head_line_says_what_a_plan_gains_and_what_does_not_fit() -> None:
    roomy, tight = inventory(2), inventory(2, memory_bytes=10**9)
    plan = by_hand(SMOLLM2, 18, 12)
    page, predicted = drawn(SMOLLM2, plan, roomy)
    gain = predict(SMOLLM2, even_layers(plan), roomy, WORKLOAD).step_seconds
    values = {div.findtext("dt"): div.findtext("dd") for div in page.xpath("//dl/div")}
    shown = values["against even layers"]
    assert float(shown.split()[0]) == pytest.approx(gain / predicted.step_seconds, abs=0.005)
    assert values["slowest stage"] == "stage 1"
    assert not page.xpath("//dd[@class='value bad']")
    page, _ = drawn(SMOLLM2, plan, tight)
    assert page.xpath("//dd[@class='value bad']")
    assert "2 ranks over their memory" in page.text_content()


def test_a_device_that_is_nearly_full_is_marked() -> None:
    plan = by_hand(SMOLLM2, 15, 15)
    _, predicted = drawn(SMOLLM2, plan, inventory(2))
    need = max(rank.total for rank in predicted.rank_bytes)
    for part, state, says in ((0.99, "tight", "nearly full"), (0.8, "", ""), (1.01, "bad", "too")):
        page, _ = drawn(SMOLLM2, plan, inventory(2, memory_bytes=int(need / part)))
        (card,) = page.xpath("//dl/div[dt='fullest device']")
        assert card.xpath("./dd/@class") == [f"value {state}".strip()]
        assert says in card.text_content()
        marked = page.xpath("//svg[@id='memory']//text[@class='tight' or @class='over']")
        assert bool(marked) == bool(state)


def test_page_and_terminal_have_one_definition_of_the_bubble() -> None:
    there = inventory(2)
    plan = by_hand(SMOLLM2, 18, 12)
    page, predicted = drawn(SMOLLM2, plan, there)
    chart = picture(page, "timeline").xpath(".//g[@data-name='planned']")[0]
    shown = [stage.xpath("./text")[-1].text for stage in chart.xpath(".//g[@class='stage']")]
    assert shown == [f"{part:.1%}" for part in predicted.timeline.bubble]
    mean = sum(predicted.timeline.bubble) / 2
    assert f"{mean:.1%}" in page.xpath("//dl/div[dt='bubble, mean of stages']/dd/text()")
    text = " ".join(comparison(plan, there, predicted, predicted))
    assert f"bubble {mean:.1%}" in text


def test_without_an_even_prediction_there_is_one_chart() -> None:
    there = inventory(1)
    plan = by_hand(SMOLLM2, 30)
    predicted = predict(SMOLLM2, plan, there, WORKLOAD)
    page = html.fromstring(draw_page(SMOLLM2, plan, there, predicted, None))
    assert len(page.xpath("//g[@class='chart']")) == 1
    assert "not compared" in page.text_content()


def test_columns_say_heads_experts_shared_and_dense_columns() -> None:
    there = inventory(6)
    plan = by_hand(FINE, 16, 14, gang=3)
    page, _ = drawn(FINE, plan, there)
    told = {
        heading: page.xpath(f"//text[@data-column='{heading}']/title/text()")[0]
        for heading in ("heads", "experts", "shared", "feed-forward")
    }
    assert told["heads"] == "heads: 0–2 (kv 0)"  # noqa: RUF001
    assert told["experts"].startswith("experts: 0")
    assert told["feed-forward"].startswith("feed-forward: 0")
    assert len(page.xpath("//text[@data-column='experts']")) == 6


def test_replicas_share_a_row_and_all_their_devices_are_told() -> None:
    there = inventory(4)
    plan = by_hand(SMOLLM2, 18, 12)
    stages = tuple(
        replace(stage, ranks=(replace(stage.ranks[0], devices=(f"a/{n}", f"a/{n + 2}")),))
        for n, stage in enumerate(plan.stages)
    )
    page, _ = drawn(SMOLLM2, replace(plan, stages=stages), there)
    assert "2 replicas" in page.findtext(".//h1")
    assert len(page.xpath("//g[@class='rank']")) == 2
    told = page.xpath("//text[starts-with(@data-column, 'device')]/title/text()")
    assert told == ["replica 0: a/0\nreplica 1: a/2", "replica 0: a/1\nreplica 1: a/3"]


def test_names_are_text_and_nothing_is_fetched() -> None:
    name = '<script>alert("&")</script>'
    there = Inventory((device(name, node="<b>"),))
    plan = single(SMOLLM2)
    (rank,) = plan.stages[0].ranks
    plan = replace(plan, stages=(replace(plan.stages[0], ranks=(replace(rank, devices=(name,)),)),))
    page, _ = drawn(SMOLLM2, plan, there)
    assert len(page.xpath("//script")) == 2
    assert not page.xpath("//b")
    assert name in page.xpath("//text[@data-column='device']/title/text()")[0]
    assert not page.xpath("//@src")
    assert all(link.startswith(("#", "data:")) for link in page.xpath("//@href"))


def test_a_page_is_replaced_whole_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    there = inventory(1)
    plan = by_hand(SMOLLM2, 30)
    predicted = predict(SMOLLM2, plan, there, WORKLOAD)
    page = tmp_path / "plan.html"
    page.write_text("old")
    write_page(page, SMOLLM2, plan, there, predicted, None)
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    with pytest.raises(PlanError, match=r"cannot write the page to .*; choose another file"):
        write_page(tmp_path / "no" / "plan.html", SMOLLM2, plan, there, predicted, None)
    with pytest.raises(PlanError, match="cannot write"):
        write_page(tmp_path, SMOLLM2, plan, there, predicted, None)
    assert [each.name for each in tmp_path.iterdir()] == ["plan.html"]


def test_the_command_line_does_not_load_the_page() -> None:
    asked = (
        "import sys, pipelines.commands.app; print([m for m in sys.modules if m.endswith('_page')])"
    )
    done = run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(st.text(max_size=60), st.floats(10, 300))
def test_fitted_words_keep_both_ends(content: str, width: float) -> None:
    shown = fitted(content, width)
    assert text_width(shown) <= width or len(shown) == 1
    if shown != content:
        before, after = shown.split("…", 1) if content.count("…") == 0 else (shown[:1], shown[-1:])
        assert content.startswith(before)
        assert content.endswith(after)
    else:
        assert text_width(content) <= width + 1e-3


@given(st.sets(st.integers(0, 255), min_size=1), st.floats(80, 300))
def test_a_list_that_has_no_room_begins_as_the_whole_and_says_how_many(
    listed: set[int], width: float
) -> None:
    whole = numbers(sorted(listed))
    shown = fitted_list(whole, width, f"({len(listed)})")
    assert text_width(shown) <= width + 1e-3
    if shown != whole:
        assert text_width(whole) > width
        assert whole.startswith(shown.split("…")[0])
        assert shown.endswith(f"… ({len(listed)})")


@given(st.floats(1e-6, 1e9))
def test_ticks_are_few_round_and_inside(most: float) -> None:
    ticks = Scale(most, 0, 100).ticks()
    assert 5 <= len(ticks) <= 12
    assert ticks[0] == 0
    assert ticks[-1] <= most * 1.001
    assert f"{ticks[1]:e}"[0] in "125"


def test_phrases() -> None:
    assert numbers([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"  # noqa: RUF001
    assert numbers([]) == "none"
    assert [short(each) for each in (535.2, 146e9, 821957, 8.4, 12345)] == [
        "535",
        "146B",
        "822k",
        "8.4",
        "12.3k",
    ]
    assert [fullness(used, 1000) for used in (999, 1000, 1001)] == ["99%", "100%", "101%"]
