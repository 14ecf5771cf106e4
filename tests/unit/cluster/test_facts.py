"""What nodes tell of themselves, with a driver of GPUs that is not there."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from actors.crew.nodes.bundles import gangs
from actors.crew.nodes.choice import choose
from actors.crew.nodes.room import Room
from cluster.facts import Facts, asked, facts_here, told
from cluster.nodes import Node, inventory
from cluster.probe import living_nodes
from moe.planning.counts.workload import Workload
from moe.planning.devices.processor import processor_name
from moe.planning.search.make import make_plan
from tests.plans import SMOLLM2

GIB = 2**30


@pytest.mark.parametrize(
    ("word", "driver", "memory", "kind"),
    [
        ("GeForce-RTX-4090", "NVIDIA GeForce RTX 4090", 24 * GIB, "4090"),
        ("A100", "NVIDIA A100-SXM4-80GB", 80 * GIB, "A100-80G"),
        ("H100", "NVIDIA H100 NVL", 94 * GIB, "H100-NVL"),
        ("H200", "NVIDIA H200", 141 * 10**9, "H200"),
        ("L4", "NVIDIA L4", 22 * GIB, "L4"),
        ("AMD-Instinct-MI300X-OAM", "AMD Instinct MI300X", 192 * 10**9, "MI300X"),
        ("AMD-Instinct-MI300X-HF", "AMD Instinct MI300X", 192 * 10**9, "MI300X"),
    ],
)
def test_a_plan_for_a_gpu_node_of_ray_finds_its_node_again(
    word: str, driver: str, memory: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the row in Ray's table over the driver's answer to the node that the gang goes to."""
    resources = {"CPU": 16.0, "GPU": 2.0, "memory": 64.0 * GIB, f"accelerator_type:{word}": 1.0}
    row = {"NodeName": "a", "NodeID": "a" * 56, "Alive": True, "Resources": resources}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    properties = SimpleNamespace(name=driver, total_memory=memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    (node,) = living_nodes([row])
    there = inventory([told(node, {node.id: facts_here(gpus=True)})])
    assert {(each.kind, each.memory_bytes) for each in there.devices} == {(kind, memory)}
    plan = make_plan(SMOLLM2, there, 2, 1, Workload(128, 1, 2))
    assert {gang.ranks[0].kind for gang in gangs(plan)} == {kind}
    bundle = gangs(plan)[0].bundles[0]
    assert (bundle["GPU"], bundle[f"accelerator_type:{word}"]) == (1.0, 0.001)
    room = Room("a" * 56, ("a",), resources, resources)
    assert choose(plan, [room]).nodes == (("a" * 56, "a" * 56),)


def test_a_node_whose_processes_see_no_gpu_keeps_what_ray_says() -> None:
    resources = {"CPU": 8.0, "GPU": 1.0, "memory": GIB, "accelerator_type:A100": 1.0}
    row = {"NodeName": "a", "NodeID": "a" * 56, "Alive": True, "Resources": resources}
    (node,) = living_nodes([row])
    seen = told(node, {node.id: Facts("some processor")})
    assert (seen.processor, seen.gpu_kind, seen.gpu_memory_bytes) == (
        "some processor",
        "A100",
        None,
    )
    assert told(node, {}) == node


class Tasks:
    """A Ray whose tasks are done at once; ``started`` counts them."""

    def __init__(self) -> None:
        self.started = 0

    def remote(self, *given: Any, **options: Any) -> Any:
        """Make a task of a function, with options; start it, without."""
        if options:
            return self
        self.started += 1
        return Facts(f"processor {self.started}")

    def __call__(self, function: Any) -> "Tasks":
        return self

    def options(self, **placed: Any) -> "Tasks":
        return self

    def wait(self, tasks: list[Facts], **how: Any) -> tuple[list[Facts], list[Facts]]:
        return tasks, []

    def get(self, task: Facts) -> Facts:
        return task


def test_a_node_is_asked_once_by_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run asks for the nodes before it measures, before it plans, and whenever it is resized."""
    tasks = Tasks()
    for name in ("remote", "wait", "get"):
        monkeypatch.setattr(ray, name, getattr(tasks, name))
    one, two, three = (Node(name, 2, 0, "", GIB, {}, id=name * 56) for name in "bcd")
    first = asked([one, two])
    assert [node.processor for node in first] == ["processor 1", "processor 2"]
    assert asked([two, three, one]) == (first[1], replace(three, processor="processor 3"), first[0])
    assert tasks.started == 3


def test_a_node_without_gpus_tells_its_processor() -> None:
    assert facts_here(gpus=False) == Facts(processor_name())
    assert processor_name()
