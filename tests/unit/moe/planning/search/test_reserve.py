"""What ranks ask of a cluster: from devices and predictions to the plan, and through files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.config.tensors import held_by
from moe.errors import PlanError
from moe.planning.counts.fixed import HOST_PROCESS_BYTES
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.inventory_file import load_inventory, save_inventory
from moe.planning.devices.naming import device_name, node_of
from moe.planning.plan.file import from_dict, load_plan, save_plan, to_dict
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import bytes_per_rank
from moe.planning.search.make import make_plan
from moe.planning.search.pins import Pins
from moe.planning.search.question import Question
from moe.planning.search.search import search
from tests.plans import SMOLLM2, device, inventory, single, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=1, micro_batches=8)
NEEDS: dict[str, Any] = {
    "resources": (("slot", 1.5), ("fast lane", 2.0)),
    "labels": (("rack", "in(r0, r1)"), ("example.com/zone", "!z0")),
}


def asking(plan: Plan, **needs: Any) -> Plan:
    stage = plan.stages[0]
    return replace(
        plan, stages=(replace(stage, ranks=(replace(stage.ranks[0], **needs), *stage.ranks[1:])),)
    )


def test_files_keep_what_ranks_and_devices_ask_for(tmp_path: Path) -> None:
    plan = asking(single(SMOLLM2), memory_bytes=7, accelerator="A100", **NEEDS)
    save_plan(plan, tmp_path / "plan.toml")
    assert load_plan(tmp_path / "plan.toml") == plan
    assert hash(plan.stages) == hash(load_plan(tmp_path / "plan.toml").stages)
    there = inventory(2, **NEEDS)
    save_inventory(there, tmp_path / "inventory.toml")
    assert load_inventory(tmp_path / "inventory.toml") == there


def test_what_is_not_asked_for_is_not_written() -> None:
    (rank,) = to_dict(single(SMOLLM2))["stages"][0]["ranks"]
    assert not {"memory_bytes", "resources", "labels"} & rank.keys()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("memory_bytes", -1, "device a/0 has memory_bytes = -1; give what its rank reserves"),
        ("memory_bytes", 1.5, "memory_bytes is 1.5; expected a whole number"),
        ("resources", ["slot"], r"resources is \['slot'\]; expected a table of numbers"),
        ("resources", {"slot": "2"}, "rank 0 resources: slot is '2'; expected a number"),
        ("resources", {"slot": 0}, "resources gives 0.0 of 'slot'; give the name"),
        ("resources", {"slot": 1e-9}, "resources gives 1e-09 of 'slot'.* at least 0.0001"),
        ("resources", {"slot": float("inf")}, "gives inf of 'slot'"),
        ("resources", {"": 1}, "resources gives 1.0 of ''"),
        ("resources", {"CPU": 1}, "names CPU, which a plan gives by threads; leave it out"),
        ("resources", {"memory": 1}, "names memory, which a plan gives by memory_bytes"),
        ("resources", {"accelerator_type:T4": 1}, "names accelerator_type:T4, .* by kind"),
        ("labels", "rack", "labels is 'rack'; expected a table of texts"),
        ("labels", {"rack": 1}, "labels: rack is 1; expected text"),
        ("labels", {"rack": "in()"}, r"labels.rack: label selector 'in\(\)' is invalid"),
        ("labels", {"my rack": "r0"}, "labels names 'my rack', which is no key"),
    ],
)
def test_what_no_node_could_answer_is_refused(key: str, value: Any, message: str) -> None:
    table = to_dict(single(SMOLLM2))
    table["stages"][0]["ranks"][0][key] = value
    with pytest.raises(PlanError, match=message):
        from_dict(table)


def test_devices_are_checked_alike_and_names_are_given_once() -> None:
    with pytest.raises(PlanError, match=r"device a/0: resources names GPU, .* by kind"):
        device(resources=(("GPU", 1.0),))
    with pytest.raises(PlanError, match="device a/0: labels names one twice: a, a"):
        device(labels=(("a", "b"), ("a", "!c")))


def test_a_made_plan_asks_for_the_memory_that_it_predicts() -> None:
    config = with_experts(SMOLLM2, 4)
    plan = make_plan(config, inventory(4, **NEEDS), 2, 2, WORKLOAD)
    ranks = [plan.rank(seat) for seat in plan.seats]
    assert tuple(rank.memory_bytes for rank in ranks) == bytes_per_rank(config, plan, WORKLOAD)
    assert {(rank.resources, rank.labels) for rank in ranks} == {tuple(NEEDS.values())}


@pytest.mark.parametrize("training", [True, False])
def test_a_rank_on_a_gpu_reserves_its_process_and_its_snapshots_on_the_host(training: bool) -> None:
    config = with_experts(SMOLLM2, 4)
    work = replace(WORKLOAD, gpus=True, training=training)
    plan = make_plan(config, inventory(4, kind="A800"), 2, 2, work)
    ranks = [plan.rank(seat) for seat in plan.seats]
    assert tuple(rank.memory_bytes for rank in ranks) == bytes_per_rank(config, plan, work)
    held = [sum(part.elements for part in held_by(config, plan.share(s))) for s in plan.seats]
    each = 12 if training else 0
    assert [rank.memory_bytes - HOST_PROCESS_BYTES for rank in ranks] == [each * n for n in held]


def test_a_node_with_too_little_memory_for_its_gpus_is_refused() -> None:
    work = replace(WORKLOAD, gpus=True)
    there = inventory(2, kind="A800", host_bytes=35 * 10**8)
    plan = make_plan(SMOLLM2, there, 2, 1, work)
    assert all(plan.rank(seat).memory_bytes <= 35 * 10**8 for seat in plan.seats)
    short = inventory(2, kind="A800", host_bytes=2**31 + 10**8)
    with pytest.raises(PlanError, match=r"of the memory of its node .* part of device a/1 is 2\.2"):
        make_plan(SMOLLM2, short, 2, 1, work)


def test_replicas_of_a_rank_are_on_devices_that_ask_for_the_same() -> None:
    """Of three devices of each of two kinds, the one left over of each cannot go together."""
    kinds: list[dict[str, Any]] = [{}, NEEDS] * 3
    there = Inventory(tuple(device(f"a/{n}", **needs) for n, needs in enumerate(kinds)))
    pins = Pins(stages=2, gang=1, replicas=2, micro_batch=1)
    plan = search(Question(SMOLLM2, there, WORKLOAD, 8, pins)).plan
    for rank in (plan.rank(seat) for seat in plan.seats):
        asked = {there.device(name).needs for name in rank.devices}
        assert asked == {(rank.resources, rank.labels, rank.accelerator)}
    with pytest.raises(PlanError):
        search(Question(SMOLLM2, there, WORKLOAD, 8, replace(pins, stages=3)))
    alike = inventory(6, **NEEDS)
    assert search(Question(SMOLLM2, alike, WORKLOAD, 8, replace(pins, stages=3))).plan.replicas == 2


@given(st.text(min_size=1).filter(lambda name: "\n" not in name), st.integers(0, 99))
def test_the_node_of_a_device_is_read_from_its_name(node: str, number: int) -> None:
    assert node_of(device_name(node, "gpu", number)) == node


@pytest.mark.parametrize("name", ["test", "a/0", "/cpu0", "a/cpu"])
def test_devices_that_are_called_otherwise_name_no_node(name: str) -> None:
    assert node_of(name) is None
