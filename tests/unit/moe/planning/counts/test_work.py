"""The cost model against arithmetic by hand and the times measured for SmolLM2-135M."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import Share, whole
from moe.config.tensors import parameters
from moe.errors import PlanError
from moe.planning.counts.merging import merging_work
from moe.planning.counts.passes import Passes
from moe.planning.counts.work import (
    embedding_work,
    feed_forward_columns,
    head_work,
    layer_work,
    optimizer_work,
)
from moe.planning.counts.workload import BF16, FLOAT32, MEGATRON, Workload
from moe.planning.devices.pace import Pace
from moe.planning.devices.rates import CPU_THREAD, Rates
from tests.examples import examples
from tests.plans import FINE, SMOLLM2, configs, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=1, micro_batches=8)


def seconds(work: Passes, rates: Rates = CPU_THREAD) -> float:
    return sum(Pace(rates).seconds("dense", work, WORKLOAD.tokens))


def milliseconds(experts: int) -> float:
    config = with_experts(SMOLLM2, experts) if experts else SMOLLM2
    return 1000 * seconds(layer_work(config, whole(config), 0, WORKLOAD))


@pytest.mark.parametrize(("experts", "measured"), [(0, 84), (4, 149), (8, 169)])
def test_blocks_take_about_what_was_measured(experts: int, measured: float) -> None:
    assert milliseconds(experts) == pytest.approx(measured, rel=0.1)


def test_head_with_loss_weighs_eight_dense_layers_or_four_and_a_half_of_experts() -> None:
    head = 1000 * seconds(head_work(SMOLLM2, whole(SMOLLM2), WORKLOAD))
    assert head / milliseconds(0) == pytest.approx(8, rel=0.1)
    assert head / milliseconds(4) == pytest.approx(4.4, rel=0.1)


def test_embedding_is_nearly_free() -> None:
    work = embedding_work(SMOLLM2, whole(SMOLLM2), WORKLOAD)
    assert work.flops == 0
    assert 1000 * seconds(work) < milliseconds(0) / 2


def test_flops_are_those_of_the_products() -> None:
    attention = 576 * 64 * (9 + 3 + 3 + 9)
    forward = 2 * (attention + 3 * 576 * 1536) + 2 * 9 * 64 * 512
    assert layer_work(SMOLLM2, whole(SMOLLM2), 0, WORKLOAD).flops == 3 * 512 * forward


def test_attention_grows_with_the_square_of_the_sequence() -> None:
    def flops(length: int) -> float:
        workload = replace(WORKLOAD, sequence_length=length)
        return layer_work(SMOLLM2, whole(SMOLLM2), 0, workload).flops

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
    parts = [layer_work(config, share, 0, WORKLOAD) for share in (left, right)]
    assert sum(part.flops for part in parts) - router == pytest.approx(
        layer_work(config, full, 0, WORKLOAD).flops
    )


def test_gradient_bytes_follow_the_parameters() -> None:
    layers = 30 * layer_work(SMOLLM2, whole(SMOLLM2), 0, WORKLOAD).bytes
    embedding = embedding_work(SMOLLM2, whole(SMOLLM2), WORKLOAD).bytes
    assert layers + embedding == 12 * (parameters(SMOLLM2) - 576)


def test_without_training_there_is_no_backward_and_no_loss() -> None:
    serving = replace(WORKLOAD, training=False)
    layer, head = layer_work, head_work
    assert layer(SMOLLM2, whole(SMOLLM2), 0, serving).flops * 3 == pytest.approx(
        layer(SMOLLM2, whole(SMOLLM2), 0, WORKLOAD).flops
    )
    assert layer(SMOLLM2, whole(SMOLLM2), 0, serving).bytes == 0
    assert head(SMOLLM2, whole(SMOLLM2), serving).bytes == 0


def test_seconds_follow_the_rates() -> None:
    work = layer_work(SMOLLM2, whole(SMOLLM2), 0, WORKLOAD)
    one = seconds(work)
    assert one == work.flops / 1.4e11 + work.bytes / 1.25e10
    assert seconds(work, CPU_THREAD.times(6)) == pytest.approx(one / 6)
    slow = Rates(CPU_THREAD.flops_per_second / 2, CPU_THREAD.bytes_per_second / 2)
    assert seconds(work, slow) == pytest.approx(2 * one)


def test_the_optimiser_passes_over_gradients_ten_times() -> None:
    for numerics in (FLOAT32, BF16, MEGATRON):
        assert optimizer_work(7, numerics).bytes == 10 * 4 * 7
        assert optimizer_work(7, numerics).flops == 0


def test_the_head_does_its_backward_products_with_its_loss() -> None:
    work = head_work(SMOLLM2, whole(SMOLLM2), WORKLOAD)
    products = 512 * 2 * 576 * 49152
    assert (work.forward.flops, work.backward.flops) == (3 * products, 0)
    assert work.forward.bytes == 512 * 3 * 4 * 49152
    assert work.backward.bytes == 3 * 4 * (49152 + 1) * 576


def test_the_fullest_rank_of_a_gang_has_more_than_the_mean() -> None:
    full = whole(FINE)
    half = replace(full, experts=tuple(range(8)))
    busy = replace(WORKLOAD, imbalance=1.5)
    routes = 3 * 512 * 6 * 576 * 384 * 3

    def flops(share: Share, workload: Workload) -> float:
        return layer_work(FINE, share, 1, workload).flops

    assert flops(half, busy) - flops(half, WORKLOAD) == 0.5 * routes / 2
    assert flops(full, busy) == flops(full, WORKLOAD)
    capped = replace(busy, capacity_factor=1.25)
    assert flops(half, capped) - flops(half, WORKLOAD) == 0.25 * routes / 2


@pytest.mark.parametrize("key", ["sequence_length", "micro_batch", "micro_batches", "pass_tokens"])
def test_an_empty_workload_is_refused(key: str) -> None:
    with pytest.raises(PlanError, match=f"the workload has {key} = 0"):
        replace(WORKLOAD, **{key: 0})


def test_each_layer_has_the_flops_of_its_kind() -> None:
    dense, mixed = (layer_work(FINE, whole(FINE), layer, WORKLOAD) for layer in (7, 1))
    assert dense == layer_work(SMOLLM2, whole(SMOLLM2), 7, WORKLOAD)
    attention = dense.flops - 3 * 512 * 6 * 576 * 1536
    gates = 2 * 576 * 16 + 2 * 576
    assert mixed.flops == attention + 3 * 512 * (6 * 576 * (3 * 384 + 768) + gates)


def test_a_hash_needs_no_router() -> None:
    routed, hashed = (
        replace(SMOLLM2, moe=MoeConfig(8, 1, 1536, hashed=hashed)) for hashed in (False, True)
    )
    more = layer_work(routed, whole(routed), 0, WORKLOAD)
    less = layer_work(hashed, whole(hashed), 0, WORKLOAD)
    assert more.flops - less.flops == 3 * 512 * 2 * 576 * 8
    assert more.bytes - less.bytes == 12 * 576 * 8


def merged(tokens: int) -> ModelConfig:
    moe = MoeConfig(8, 1, 1536, segment_tokens=tokens)
    return replace(SMOLLM2, family="raymoe", moe=moe)


def test_merging_costs_what_the_paper_says_of_a_feed_forward() -> None:
    """E / T of its FLOPs forward: 3.1 percent with 8 experts and segments of 256 tokens."""
    config = merged(256)
    own = merging_work(config, whole(config), 0, WORKLOAD)
    feed_forward = 6 * 576 * 1536 * WORKLOAD.tokens
    assert own.forward.flops / feed_forward == 8 / 256 == 0.03125
    assert own.backward.flops == 3 * own.forward.flops
    work = layer_work(config, whole(config), 0, WORKLOAD)
    dense = layer_work(SMOLLM2, whole(SMOLLM2), 0, WORKLOAD)
    router = 3 * WORKLOAD.tokens * 2 * 576 * 8
    assert work.flops == dense.flops + router + own.flops
    assert merging_work(SMOLLM2, whole(SMOLLM2), 0, WORKLOAD).bytes == 0


def test_the_experts_are_read_once_for_the_segments_that_are_merged_together() -> None:
    numbers = 3 * 576 * 1536
    few = merging_work(merged(256), whole(merged(256)), 0, WORKLOAD).forward.bytes
    assert few == 4 * numbers * (8 + 2)
    many = merging_work(merged(64), whole(merged(64)), 0, WORKLOAD).forward.bytes
    assert many == 4 * numbers * (2 * 8 + 8)  # 6 fit into MERGED_AT_ONCE
    alone = replace(WORKLOAD, training=False)
    assert merging_work(merged(256), whole(merged(256)), 0, alone).bytes == 4 * numbers * (16 + 2)


def test_a_rank_of_a_gang_merges_its_columns_of_all_experts() -> None:
    config = merged(256)
    left, right = (
        replace(whole(config), kv_heads=heads, ffn=span)
        for heads, span in (((0, 1), (0, 500)), ((1, 3), (500, 1536)))
    )
    assert feed_forward_columns(config, left, 0) == 500
    parts = [merging_work(config, share, 0, WORKLOAD).flops for share in (left, right)]
    assert sum(parts) == merging_work(config, whole(config), 0, WORKLOAD).flops


def test_a_share_has_its_columns_of_the_shared_expert() -> None:
    full = whole(FINE)
    left, right = (
        replace(full, kv_heads=heads, ffn=span, experts=experts)
        for heads, span, experts in (
            ((0, 1), (0, 500), tuple(range(4))),
            ((1, 3), (500, 1536), tuple(range(4, 16))),
        )
    )
    assert feed_forward_columns(FINE, left, 1) == 250
    assert feed_forward_columns(FINE, left, 7) == 500
    gates = 3 * 512 * (2 * 576 * 16 + 2 * 576)
    for layer, repeated in ((1, gates), (7, 0)):
        parts = [layer_work(FINE, share, layer, WORKLOAD).flops for share in (left, right)]
        assert sum(parts) - repeated == layer_work(FINE, full, layer, WORKLOAD).flops


@settings(max_examples=examples(60))
@given(configs())
def test_gradient_bytes_of_any_model_follow_its_parameters(config: ModelConfig) -> None:
    full = whole(config)
    moved = [layer_work(config, full, layer, WORKLOAD).bytes for layer in range(config.layers)]
    moved += [part(config, full, replace(WORKLOAD)).bytes for part in (embedding_work, head_work)]
    loss = 4 * 3 * config.vocab_size * WORKLOAD.tokens
    tied = config.vocab_size * config.hidden_size * config.tie_embeddings
    moved += [-merging_work(config, full, layer, WORKLOAD).bytes for layer in range(config.layers)]
    assert sum(moved) - loss == 12 * (parameters(config) + tied)
