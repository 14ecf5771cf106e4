"""The cost model against arithmetic by hand and the times measured for SmolLM2-135M."""

from dataclasses import replace

import pytest

from moe.config.share import whole
from moe.config.tensors import parameters
from moe.errors import PlanError
from moe.planning.costs import (
    CPU_THREAD,
    Rates,
    Workload,
    embedding_work,
    head_work,
    layer_work,
)
from tests.plans import SMOLLM2, device, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=1, micro_batches=8)


def milliseconds(experts: int) -> float:
    config = with_experts(SMOLLM2, experts) if experts else SMOLLM2
    return 1000 * layer_work(config, whole(config), WORKLOAD).seconds(device(), CPU_THREAD)


@pytest.mark.parametrize(("experts", "measured"), [(0, 135), (4, 229), (8, 237)])
def test_blocks_take_about_what_was_measured(experts: int, measured: float) -> None:
    assert milliseconds(experts) == pytest.approx(measured, rel=0.1)


def test_head_with_loss_weighs_eight_dense_layers_or_five_of_experts() -> None:
    head = 1000 * head_work(SMOLLM2, whole(SMOLLM2), WORKLOAD).seconds(device(), CPU_THREAD)
    assert head / milliseconds(0) == pytest.approx(8, rel=0.1)
    assert head / milliseconds(4) == pytest.approx(5, rel=0.1)


def test_embedding_is_nearly_free() -> None:
    work = embedding_work(SMOLLM2, whole(SMOLLM2), WORKLOAD)
    assert work.flops == 0
    assert 1000 * work.seconds(device(), CPU_THREAD) < milliseconds(0) / 2


def test_flops_are_those_of_the_products() -> None:
    attention = 576 * 64 * (9 + 3 + 3 + 9)
    forward = 2 * (attention + 3 * 576 * 1536) + 2 * 9 * 64 * 512
    assert layer_work(SMOLLM2, whole(SMOLLM2), WORKLOAD).flops == 3 * 512 * forward


def test_attention_grows_with_the_square_of_the_sequence() -> None:
    def flops(length: int) -> float:
        workload = replace(WORKLOAD, sequence_length=length)
        return layer_work(SMOLLM2, whole(SMOLLM2), workload).flops

    linear, both, four = flops(1), flops(1024), flops(2048)
    per_square = 3 * 2 * 9 * 64
    assert four - 2 * both == per_square * (2048**2 - 2 * 1024**2)
    assert linear < both / 1024


@pytest.mark.parametrize("experts", [0, 8])
def test_shares_of_a_gang_add_up_but_for_what_each_repeats(experts: int) -> None:
    config = with_experts(SMOLLM2, experts) if experts else SMOLLM2
    full = whole(config)
    left = replace(full, kv_heads=(0, 1), ffn=(0, 500), experts=tuple(range(experts // 4)))
    right = replace(
        full, kv_heads=(1, 3), ffn=(500, 1536), experts=tuple(range(experts // 4, experts))
    )
    router = 3 * 512 * 2 * 576 * experts
    parts = [layer_work(config, share, WORKLOAD) for share in (left, right)]
    assert sum(part.flops for part in parts) - router == pytest.approx(
        layer_work(config, full, WORKLOAD).flops
    )


def test_gradient_bytes_follow_the_parameters() -> None:
    layers = 30 * layer_work(SMOLLM2, whole(SMOLLM2), WORKLOAD).bytes
    embedding = embedding_work(SMOLLM2, whole(SMOLLM2), WORKLOAD).bytes
    assert layers + embedding == 12 * (parameters(SMOLLM2) - 576)


def test_without_training_there_is_no_backward_and_no_loss() -> None:
    serving = replace(WORKLOAD, training=False)
    layer, head = layer_work, head_work
    assert layer(SMOLLM2, whole(SMOLLM2), serving).flops * 3 == pytest.approx(
        layer(SMOLLM2, whole(SMOLLM2), WORKLOAD).flops
    )
    assert layer(SMOLLM2, whole(SMOLLM2), serving).bytes == 0
    assert head(SMOLLM2, whole(SMOLLM2), serving).bytes == 0


def test_seconds_follow_speed_threads_and_rates() -> None:
    work = layer_work(SMOLLM2, whole(SMOLLM2), WORKLOAD)
    one = work.seconds(device(), CPU_THREAD)
    assert work.seconds(device(threads=2, speed=3.0), CPU_THREAD) == pytest.approx(one / 6)
    slow = Rates(CPU_THREAD.flops_per_second / 2, CPU_THREAD.bytes_per_second / 2)
    assert work.seconds(device(), slow) == pytest.approx(2 * one)


@pytest.mark.parametrize("key", ["sequence_length", "micro_batch", "micro_batches", "pass_tokens"])
def test_an_empty_workload_is_refused(key: str) -> None:
    with pytest.raises(PlanError, match=f"the workload has {key} = 0"):
        replace(WORKLOAD, **{key: 0})
