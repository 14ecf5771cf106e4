"""The plan on a terminal of 80 columns."""

from io import StringIO

import pytest
from rich.console import Console

from moe.config.model import ModelConfig
from moe.planning.costs import Workload
from moe.planning.inventory import Inventory
from moe.planning.make import even_layers, make_plan
from moe.planning.predict import predict
from pipelines.plan_table import plan_table
from tests.plans import FINE, SMOLLM2, device, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=1, micro_batches=8)


def drawn(config: ModelConfig, stages: int, gang: int, name: str = "node-{0}/0") -> str:
    there = Inventory(tuple(device(name.format(number)) for number in range(stages * gang)))
    plan = make_plan(config, there, stages, gang, WORKLOAD)
    predicted = predict(config, plan, there, WORKLOAD)
    even = predict(config, even_layers(plan), there, WORKLOAD)
    console = Console(width=80, file=StringIO(), color_system=None)
    console.print(plan_table(config, plan, there, predicted, even))
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
    lines = drawn(with_experts(SMOLLM2, 8), 2, 2).splitlines()
    second = next(line for line in lines if "node-1/0" in line)
    assert second.split() == ["1", "node-1/0", "0-18", "(19)", "3", "(1)", "4-7", "4.9/64.0"]
    assert sum("+embedding" in line for line in lines) == 2
    assert sum("+head" in line for line in lines) == 2


def test_the_footer_compares_with_even_layers() -> None:
    assert "with even layers 1.99 s (1.17 x)" in drawn(SMOLLM2, 2, 1)
    assert "as with even layers" in drawn(SMOLLM2, 1, 1)


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
    assert "30 layers, 2 of them dense, 16 experts top-3, shared 768 wide" in title
    assert sum("0, 7: ffn 768" in line for line in lines) == 2
    assert sum(line.split()[-1:] == ["+384"] for line in lines) == 4
    assert "+shared" in text
    assert "+shared" not in drawn(with_experts(SMOLLM2, 8), 2, 2)
