"""The plan on a terminal of 80 columns."""

import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from moe.config.model import ModelConfig
from moe.config.presets import preset
from moe.planning.counts.workload import MEGATRON, Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import predict
from moe.planning.search.make import even_layers, make_plan
from moe.planning.search.pins import Pins
from moe.planning.search.search import Question, search
from pipelines.screen.plan_table import plan_line, plan_picture, plan_table
from pipelines.screen.words import compared_gigabytes
from tests.plans import FINE, SMOLLM2, device, inventory, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=1, micro_batches=8)


def drawn(config: ModelConfig, stages: int, gang: int, name: str = "node-{0}/0") -> str:
    there = Inventory(tuple(device(name.format(number)) for number in range(stages * gang)))
    work = replace(WORKLOAD, micro_batches=max(8, stages))
    return picture(config, make_plan(config, there, stages, gang, work), there, work)


def picture(config: ModelConfig, plan: Plan, there: Inventory, workload: Workload) -> str:
    predicted = predict(config, plan, there, workload)
    even = predict(config, even_layers(plan), there, workload)
    console = Console(width=80, file=StringIO(), color_system=None)
    console.print(plan_picture(config, plan, there, predicted, even))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("experts", [0, 8])
@pytest.mark.parametrize(("stages", "gang"), [(1, 1), (2, 1), (3, 2), (30, 1)])
def test_every_rank_has_a_row_of_at_most_80_columns(experts: int, stages: int, gang: int) -> None:
    config = with_experts(SMOLLM2, experts) if experts else SMOLLM2
    text = drawn(config, stages, gang)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    for rank in range(stages * gang):
        assert sum(f"node-{rank}/0" in line for line in text.splitlines()) == 1


def test_rows_say_who_holds_what() -> None:
    config, there = with_experts(SMOLLM2, 8), inventory(4)
    plan = make_plan(config, there, 2, 2, WORKLOAD)
    lines = picture(config, plan, there, WORKLOAD).splitlines()
    second = next(line for line in lines if " a/1 " in line)
    layers = plan.stages[0].layers[1]
    memory = predict(config, plan, there, WORKLOAD).rank_bytes[1].total / 1e9
    held = ["1", "a/1", f"0-{layers - 1}", f"({layers})", "3", "(1)", "4-7", f"{memory:.1f}/64.0"]
    assert second.split() == held
    assert sum(" embedding" in line for line in lines) == 2
    assert sum(" LM head" in line for line in lines) == 2
    assert sum("rows 24576" in line for line in lines) == 4


@pytest.mark.parametrize(("schedule", "chunks"), [("zbv", 2), ("interleaved-1f1b", 3)])
def test_every_run_of_a_stage_has_a_line(schedule: str, chunks: int) -> None:
    there, work = inventory(3), replace(WORKLOAD, micro_batches=9, schedule=schedule)
    plan = make_plan(SMOLLM2, there, 3, 1, work, chunks)
    text = picture(SMOLLM2, plan, there, work)
    assert all(len(line) <= 80 for line in text.splitlines())
    for start, stop in plan.chunk_spans:
        shown = f"{start}-{stop - 1}" if stop - start > 1 else f"{start}"
        assert text.count(f" {shown} ({stop - start})") == 1
    first = plan_line(plan).partition("layers each, ")[2].partition(", layers ")
    assert first[0] == ("folded" if schedule == "zbv" else "in a loop")
    assert first[2].count(" + ") == 3 * (chunks - 1)
    assert first[2].count(" | ") == 2


def test_the_footer_compares_with_even_layers() -> None:
    assert "with even layers 1.99 s (1.17 x as long)" in " ".join(drawn(SMOLLM2, 2, 1).split())
    assert "the same as with even layers" in drawn(SMOLLM2, 1, 1)


def test_long_device_names_fold() -> None:
    name = "a-node-with-a-name-nobody-would-type/{0}"
    lines = drawn(SMOLLM2, 1, 1, name).splitlines()
    assert all(len(line) <= 80 for line in lines)
    start = next(line for line in lines if "device" in line).index("device")
    assert name.format(0) in "".join(line[start:].split(" ")[0] for line in lines)


def test_shared_columns_and_dense_layers_are_shown() -> None:
    text = drawn(FINE, 2, 2)
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    title = " ".join(text.split("stage  ")[0].split())
    assert "30 layers, 2 of them dense, 16 experts top-3, shared expert of 768 columns" in title
    assert sum("0, 7: ffn 768" in line for line in lines) == 2
    assert sum(line.split()[-1:] == ["+384"] for line in lines) == 4
    assert "+shared" in text
    assert "+shared" not in drawn(with_experts(SMOLLM2, 8), 2, 2)


def test_forty_eight_ranks_of_two_replicas_take_a_row_per_gang() -> None:
    """The 12 x 4 of Skywork-MoE: what the ranks of a gang hold is said once, with how much each."""
    config = preset("skywork-moe-146b").config
    there = Inventory(
        tuple(
            Device(f"n{number // 8}/gpu{number % 8}", f"n{number // 8}", "A800", 80 * 2**30)
            for number in range(96)
        )
    )
    pins = Pins(replicas=2, micro_batch=1, layers=(4,) * 11 + (8,), recompute=(3,) * 12)
    work = Workload(1024, 1, 16, numerics=MEGATRON)
    plan = search(Question(config, there, work, 32, pins)).plan
    text = picture(config, plan, there, work)
    lines = text.splitlines()
    assert plan.ranks == 48
    assert all(len(line) <= 80 for line in lines)
    assert "…" not in text.replace(" … gpu", "")
    assert len(lines) <= 50
    table = [line.split() for line in lines if " 4 each " in line]
    assert [row[:2] for row in table] == [
        [str(stage), f"{stage * 4}-{stage * 4 + 3}"] for stage in range(12)
    ]
    assert {row[5] for row in table} >= {"0-3", "44-51"}
    assert sum("recompute" in line for line in lines) == 12
    assert sum("rows 16383" in line for line in lines) == 2
    assert "x 2 replicas" in text
    assert "on each of 2 replicas" in text


def test_ranks_that_hold_unlike_are_rows_of_their_own_also_in_brief() -> None:
    """36 heads over 8 ranks are 5 and 4."""
    config = replace(SMOLLM2, heads=36, kv_heads=36, head_size=16)
    there = inventory(32)
    work = Workload(128, 1, 4)
    plan = search(Question(config, there, work, 4, Pins(stages=4, gang=8, replicas=1))).plan
    text = picture(config, plan, there, work)
    assert re.findall(r"[45] \([45]\) ", text) == ["5 (5) ", "4 (4) "] * 4


def test_heads_that_do_not_divide_are_explained() -> None:
    text = " ".join(drawn(SMOLLM2, 1, 2).split())
    assert "9 query heads go over 2 ranks as [6, 3], not [5, 4]" in text
    assert "query heads go over" not in drawn(SMOLLM2, 1, 3)


def test_even_layers_that_do_not_fit_are_told() -> None:
    config, work = SMOLLM2, Workload(512, 1, 8)
    there = Inventory(
        (device("a/0", memory_bytes=1_600_000_000), device("a/1", memory_bytes=8 * 10**9))
    )
    plan = make_plan(config, there, 2, 1, work)
    even = predict(config, even_layers(plan), there, work)
    fullest = max(
        need.total / there.device(plan.rank(seat).device).memory_bytes
        for seat, need in zip(plan.seats, even.rank_bytes, strict=True)
    )
    assert fullest > 1
    text = " ".join(picture(config, plan, there, work).split())
    assert f"even layers do not fit: they need {fullest:.2f} x the memory of a device" in text


def test_where_the_seconds_come_from() -> None:
    assert "counted from FLOPs and bytes, not measured; links assumed" in drawn(SMOLLM2, 1, 1)


def test_a_wide_terminal_is_used() -> None:
    config, there = with_experts(SMOLLM2, 8), inventory(2)
    plan = make_plan(config, there, 2, 1, WORKLOAD)
    predicted = predict(config, plan, there, WORKLOAD)
    console = Console(width=160, file=StringIO(), color_system=None)
    console.print(plan_table(config, plan, there, predicted, width=console.width))
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert any("heads (kv)" in line and "memory GB" in line for line in lines)
    assert max(line.count("█") for line in lines) == 40
    assert all(len(line) <= 160 for line in lines)


@pytest.mark.parametrize(
    ("need", "have", "shown"),
    [
        (5.54e9, 12e9, "5.5/12.0"),
        (4e7, 6e7, "0.04/0.06"),
        (12.01e9, 12e9, "12.01/12.00"),
        (50.1e6, 50e6, "0.0501/0.0500"),
    ],
)
def test_memory_shows_small_sizes_and_what_is_too_much(
    need: float, have: float, shown: str
) -> None:
    assert compared_gigabytes(need, have) == shown
