"""Kinds of GPUs by the names that drivers, clouds and Ray give them, and every kind Ray knows."""

import pytest
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
from ray.util.accelerators import accelerators

from moe.planning.devices.kinds import is_of_kind, kind_of_gpu, kinds_of_word, ray_word
from moe.planning.devices.rates import AMD, GPUS, vendor_of

GIB = 2**30


@pytest.mark.parametrize(
    ("product", "mebibytes", "kind"),
    [
        ("NVIDIA-A100-SXM4-80GB", None, "A100-80G"),
        ("NVIDIA-A100-SXM4-80GB", 81920, "A100-80G"),
        ("NVIDIA-A100-80GB-PCIe", 81251, "A100-80G"),
        ("NVIDIA-A100-SXM4-40GB", 40960, "A100-40G"),
        ("NVIDIA-A100-PG509-200", 40536, "A100-40G"),
        ("nvidia-tesla-a100", None, "A100"),
        ("nvidia-a100-80gb", None, "A100-80G"),
        ("NVIDIA-A800-SXM4-80GB", 81920, "A800"),
        ("NVIDIA-H100-80GB-HBM3", 81559, "H100"),
        ("nvidia-h100-mega-80gb", None, "H100"),
        ("NVIDIA-H100-PCIe", 81559, "H100-PCIE"),
        ("NVIDIA H100 NVL", 95830, "H100-NVL"),
        ("NVIDIA-H800", 81559, "H800"),
        ("NVIDIA-H200", 143771, "H200"),
        ("Tesla-T4", 15360, "T4"),
        ("t4", 16384, "T4"),
        ("Tesla-V100-SXM2-16GB", 16384, "V100"),
        ("Tesla-V100-SXM2-32GB", 32768, "V100-32G"),
        ("NVIDIA-L4", 23034, "L4"),
        ("NVIDIA-L40", 46068, "L40"),
        ("NVIDIA-L40S", 46068, "L40S"),
        ("NVIDIA-A10", 23028, "A10"),
        ("NVIDIA-A10G", 23028, "A10G"),
        ("NVIDIA-GeForce-RTX-4090", 24564, "4090"),
        ("AMD_Instinct_MI300X_OAM", None, "MI300X"),
        ("NVIDIA-GB200", 189471, "NVIDIA-GB200"),
        ("NVIDIA-RTX-A4000", 16376, "NVIDIA-RTX-A4000"),
    ],
)
def test_a_product_is_of_the_kind_that_its_words_and_memory_tell(
    product: str, mebibytes: int | None, kind: str
) -> None:
    assert kind_of_gpu(product, mebibytes and mebibytes * 2**20) == kind


@pytest.mark.parametrize("kind", GPUS)
def test_a_kind_is_its_own_name(kind: str) -> None:
    assert kind_of_gpu(kind) == kind


def test_kinds_that_share_a_name_with_ray_are_found_under_it() -> None:
    names = {name for key, name in vars(accelerators).items() if key.isupper()}
    known = {name for name in names if kind_of_gpu(name) in GPUS}
    assert known >= {"T4", "P100", "V100", "A10G", "L4", "L40S", "A100", "A100-40G", "A100-80G"}
    assert known >= {"H100", "H200", "B200"}
    assert not known & {"K80", "P4", "GB200", "TPU-V4", "aws-neuron-core"}


@pytest.mark.parametrize(
    ("driver", "memory", "kind"),
    [
        ("NVIDIA GeForce RTX 4090", 24 * GIB, "4090"),
        ("NVIDIA A100-SXM4-80GB", 79 * GIB, "A100-80G"),
        ("NVIDIA A100-SXM4-40GB", 39 * GIB, "A100-40G"),
        ("NVIDIA A800-SXM4-80GB", 79 * GIB, "A800"),
        ("NVIDIA H100 80GB HBM3", 79 * GIB, "H100"),
        ("NVIDIA H100 NVL", 93 * GIB, "H100-NVL"),
        ("NVIDIA H100 PCIe", 79 * GIB, "H100-PCIE"),
        ("NVIDIA H200", 140 * GIB, "H200"),
        ("NVIDIA B200", 178 * GIB, "B200"),
        ("NVIDIA L4", 22 * GIB, "L4"),
        ("NVIDIA L40S", 44 * GIB, "L40S"),
        ("NVIDIA A10G", 22 * GIB, "A10G"),
        ("Tesla T4", 15 * GIB, "T4"),
        ("Tesla V100-SXM2-32GB", 32 * GIB, "V100-32G"),
    ],
)
def test_ray_s_word_for_a_driver_s_name_is_the_word_of_its_kind(
    driver: str, memory: int, kind: str
) -> None:
    word = NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(driver)
    assert kind_of_gpu(driver, memory) == kind
    assert ray_word(kind) == word
    assert kind in kinds_of_word(word)
    assert is_of_kind(kind, driver, memory)


def test_the_words_of_amd() -> None:
    assert ray_word("MI300X") == accelerators.AMD_INSTINCT_MI300x
    for word in (accelerators.AMD_INSTINCT_MI300x, accelerators.AMD_INSTINCT_MI300x_HF):
        assert (kind_of_gpu(word), vendor_of(word)) == ("MI300X", AMD)


def test_a_gpu_is_told_from_another_kind_of_the_table_and_from_no_other() -> None:
    assert not is_of_kind("A100-80G", "NVIDIA A100-SXM4-40GB", 39 * GIB)
    assert not is_of_kind("L40", "NVIDIA L40S", 44 * GIB)
    assert is_of_kind("A100", "NVIDIA A100-SXM4-80GB", 79 * GIB)
    assert is_of_kind("of-mine", "NVIDIA L4", 22 * GIB)
