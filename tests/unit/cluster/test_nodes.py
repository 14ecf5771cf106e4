"""What nodes offer, as devices, and what is assumed of those that do not tell."""

from dataclasses import replace

from cluster.nodes import Node, cautions, inventory

GIB = 2**30


def test_what_a_node_tells_of_its_memory_comes_before_the_data_sheet() -> None:
    told = Node("a", 8, 2, "H100", 64 * GIB, {}, gpu_memory_bytes=93 * GIB)
    strange = Node("b", 8, 1, "Something-New", 64 * GIB, {}, gpu_memory_bytes=12 * GIB)
    found = inventory([told, strange]).devices
    assert [device.memory_bytes for device in found] == [93 * GIB, 93 * GIB, 12 * GIB]
    assert [device.kind for device in found] == ["H100", "H100", "Something-New"]


def test_a_word_of_several_sizes_is_cautioned_where_no_node_told_its_own() -> None:
    silent = Node("a", 8, 2, "A100", 64 * GIB, {}, accelerator="A100")
    told = replace(silent, name="b", gpu_kind="A100-80G", gpu_memory_bytes=79 * GIB)
    alone = Node("c", 8, 1, "L4", 64 * GIB, {}, accelerator="L4")
    (caution,) = cautions([silent, told, alone])
    assert caution.startswith(
        "node a did not tell the memory of its A100 GPUs, which exist with 42.9"
    )
    assert cautions([told, alone]) == ()


def test_a_gpu_has_its_part_of_the_node_s_memory_and_ray_s_word() -> None:
    node = Node("a", 8, 2, "4090", 64 * GIB, {}, accelerator="GeForce-RTX-4090")
    for device in inventory([node]).devices:
        assert (device.host_bytes, device.accelerator) == (32 * GIB, "GeForce-RTX-4090")
