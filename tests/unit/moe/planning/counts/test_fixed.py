"""Bytes beside tensors: of a process on a CPU, of a GPU and of its host."""

from dataclasses import replace

from moe.config.share import whole
from moe.planning.counts.fixed import (
    CONTEXT_BYTES,
    GROUP_BYTES,
    HOST_PROCESS_BYTES,
    PAIR_BYTES,
    PROCESS_BYTES,
    PRODUCTS_BYTES,
    WORKSPACE_BYTES,
    communicator_bytes,
    fixed_bytes,
    host_bytes,
    least_fixed_bytes,
)
from moe.planning.counts.memory import Position, rank_bytes
from moe.planning.counts.work import Parameters
from moe.planning.counts.workload import BF16, Workload
from tests.plans import SMOLLM2, with_experts

MOE = with_experts(SMOLLM2, 4)
ON_CPU = Workload(512, 1, 4, snapshots=True)
ON_GPU = Workload(512, 1, 4, gpus=True, numerics=BF16)


def test_a_process_on_a_cpu_prepares_more_products_where_experts_are_trained() -> None:
    assert fixed_bytes(SMOLLM2, whole(SMOLLM2), 2, ON_CPU, 3) == PROCESS_BYTES
    assert fixed_bytes(MOE, whole(MOE), 0, ON_CPU, 1) == PROCESS_BYTES + PRODUCTS_BYTES
    serving = replace(ON_CPU, training=False)
    assert fixed_bytes(MOE, whole(MOE), 0, serving, 1) == PROCESS_BYTES == least_fixed_bytes(ON_CPU)


def test_a_gpu_holds_its_context_workspaces_and_the_gradient_of_a_layer_s_experts() -> None:
    least = CONTEXT_BYTES + WORKSPACE_BYTES
    assert fixed_bytes(SMOLLM2, whole(SMOLLM2), 0, ON_GPU, 1) == least == least_fixed_bytes(ON_GPU)
    experts = 2 * 4 * 3 * 576 * 1536
    assert fixed_bytes(MOE, whole(MOE), 0, ON_GPU, 1) == least + experts
    half = replace(whole(MOE), experts=(1, 3))
    assert fixed_bytes(MOE, half, 0, ON_GPU, 1) == least + experts // 2
    assert fixed_bytes(MOE, half, 0, replace(ON_GPU, training=False), 1) == least


def test_each_group_and_each_line_has_a_communicator() -> None:
    share = whole(SMOLLM2)
    assert communicator_bytes(SMOLLM2, share, 0, 1) == 0
    assert communicator_bytes(SMOLLM2, share, 4, 1) == GROUP_BYTES + 4 * PAIR_BYTES
    gang = replace(share, kv_heads=(0, 1))
    assert communicator_bytes(SMOLLM2, gang, 0, 1) == 2 * GROUP_BYTES
    assert communicator_bytes(SMOLLM2, gang, 2, 8) == 3 * GROUP_BYTES + 2 * PAIR_BYTES
    serving = replace(ON_GPU, training=False)
    more = [
        fixed_bytes(SMOLLM2, share, 2, work, 1) - fixed_bytes(SMOLLM2, share, 0, work, 1)
        for work in (ON_GPU, serving)
    ]
    assert more == [GROUP_BYTES + 4 * PAIR_BYTES, GROUP_BYTES + 2 * PAIR_BYTES]


def test_the_host_of_a_gpu_has_the_process_and_the_snapshot_that_a_cpu_has_itself() -> None:
    need = rank_bytes(SMOLLM2, whole(SMOLLM2), Position(), ON_GPU)
    own = rank_bytes(SMOLLM2, whole(SMOLLM2), Position(), replace(ON_CPU, numerics=BF16))
    assert need.snapshot == own.host == 0
    assert need.host == HOST_PROCESS_BYTES + own.snapshot
    assert host_bytes(Parameters(1000, 100), ON_GPU, 4) == HOST_PROCESS_BYTES + 3450
    serving = rank_bytes(SMOLLM2, whole(SMOLLM2), Position(), replace(ON_GPU, training=False))
    assert serving.host == HOST_PROCESS_BYTES
