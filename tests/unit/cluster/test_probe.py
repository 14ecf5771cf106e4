from typing import Any

import pytest
from ray.util.accelerators import accelerators

from cluster.nodes import inventory, left_out
from cluster.probe import living_nodes
from moe.errors import ClusterError
from moe.planning.devices.inventory import Device

GIB = 2**30


def _row(name: str, node_id: str = "ab" * 28, alive: bool = True, **resources: float) -> Any:
    keys = {"accelerator": "accelerator_type:A100", "gpu_unknown": "accelerator_type:X9"}
    return {
        "NodeName": name,
        "NodeID": node_id,
        "Alive": alive,
        "Resources": {keys.get(key, key): value for key, value in resources.items()},
        "Labels": {"ray.io/node-id": node_id},
    }


def test_a_node_without_gpu_yields_a_device_per_core_that_share_its_memory() -> None:
    nodes = living_nodes([_row("a", CPU=3.0, memory=3.0 * GIB)])
    assert inventory(nodes).devices == tuple(
        Device(f"a/cpu{number}", "a", "cpu", GIB, threads=1) for number in range(3)
    )
    assert nodes[0].labels == {"ray.io/node-id": "ab" * 28}


def test_a_node_with_gpus_yields_a_device_per_gpu_and_none_for_its_cores() -> None:
    row = _row("a", CPU=9.0, GPU=2.0, memory=64.0 * GIB, accelerator=1.0)
    assert inventory(living_nodes([row])).devices == tuple(
        Device(f"a/gpu{number}", "a", "A100", 40 * GIB, 4, accelerator="A100", host_bytes=32 * GIB)
        for number in range(2)
    )


def test_the_dead_and_the_empty_yield_nothing_and_order_is_by_name() -> None:
    table = [
        _row("c", CPU=1.0, memory=GIB),
        _row("head", CPU=0.0, memory=GIB),
        _row("dead", alive=False, CPU=4.0, memory=GIB),
        _row("b", CPU=1.0, memory=GIB),
    ]
    assert [device.node for device in inventory(living_nodes(table)).devices] == ["b", "c"]


def test_nodes_of_one_name_are_told_apart_by_their_ids() -> None:
    table = [_row("a", "1" * 56, CPU=1.0, memory=GIB), _row("a", "2" * 56, CPU=1.0, memory=GIB)]
    assert [node.name for node in living_nodes(table)] == ["a-11111111", "a-22222222"]


def test_a_cluster_without_workers_is_an_error() -> None:
    with pytest.raises(ClusterError, match="none of the 1 living nodes offers"):
        inventory(living_nodes([_row("head", CPU=0.0, memory=GIB)]))


def test_a_gpu_of_unknown_memory_asks_for_an_inventory_file() -> None:
    row = _row("a", CPU=1.0, GPU=1.0, memory=GIB, gpu_unknown=1.0)
    with pytest.raises(ClusterError, match=r"kind X9.*--inventory"):
        inventory(living_nodes([row]))


def test_nodes_without_a_gpu_are_left_out_where_others_have_one() -> None:
    gpus = _row("b", CPU=8.0, GPU=1.0, memory=GIB, accelerator=1.0)
    nodes = living_nodes([_row("a", CPU=16.0, memory=GIB), gpus])
    assert [device.name for device in inventory(nodes).devices] == ["b/gpu0"]


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"HPU": 8.0, "accelerator_type:Intel-GAUDI": 1.0}, "8 HPU"),
        ({"TPU": 4.0, "accelerator_type:TPU-V4": 1.0}, "4 TPU"),
        ({"GPU": 2.0, "accelerator_type:Intel-GPU-Max-1550": 1.0}, "2 GPU of Intel-GPU-Max-1550"),
        ({"GPU": 1.0, "accelerator_type:M2-Pro": 1.0}, "1 GPU of M2-Pro"),
    ],
)
def test_accelerators_that_no_rank_can_use_are_told(resources: dict[str, float], told: str) -> None:
    nodes = living_nodes([_row("a", CPU=2.0, memory=GIB, **resources)])
    assert {device.kind for device in inventory(nodes).devices} == {"cpu"}
    (found,) = left_out(nodes)
    assert found.reason.startswith(f"its {told} cannot be used")
    assert found.reason.endswith("its 2 CPU cores are planned for")


def test_gpus_of_amd_are_known_by_the_word_of_ray() -> None:
    word = f"accelerator_type:{accelerators.AMD_INSTINCT_MI300x}"
    rows = [_row("a", CPU=8.0, GPU=2.0, memory=GIB, **{word: 1.0})]
    rows += [_row("b", CPU=8.0, GPU=1.0, memory=GIB, accelerator=1.0)]
    nodes = living_nodes(rows)
    assert {device.kind for device in inventory(nodes).devices} == {"MI300X"}
    assert [each.node for each in left_out(nodes)] == ["b"]
    assert {device.accelerator for device in inventory(nodes).devices} == {
        accelerators.AMD_INSTINCT_MI300x
    }


def test_of_several_words_of_a_node_the_most_particular_counts() -> None:
    words = {"accelerator_type:A100": 1.0, "accelerator_type:A100-80G": 1.0}
    (node,) = living_nodes([_row("a", CPU=8.0, GPU=1.0, memory=GIB, **words)])
    assert (node.gpu_kind, node.accelerator, node.id) == ("A100-80G", "A100-80G", "ab" * 28)
