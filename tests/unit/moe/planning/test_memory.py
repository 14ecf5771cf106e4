"""Bytes per rank against the parameter count and the floats that autograd was seen to keep."""

from dataclasses import replace
from typing import Any

import pytest

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import whole
from moe.config.tensors import parameters
from moe.nn import loss
from moe.planning.costs import Workload
from moe.planning.memory import LOGITS_AT_ONCE, PROCESS_BYTES, in_flight, rank_bytes
from tests.plans import FINE, SMOLLM2, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=2, micro_batches=8)


def test_a_whole_model_takes_sixteen_bytes_per_parameter() -> None:
    need = rank_bytes(SMOLLM2, whole(SMOLLM2), 1, WORKLOAD)
    assert need.weights == 4 * parameters(SMOLLM2) == need.gradients == need.optimizer // 2
    assert need.total == 16 * parameters(SMOLLM2) + need.activations + PROCESS_BYTES


@pytest.mark.parametrize(("experts", "measured"), [(0, 11147), (4, 11161), (8, 11165)])
def test_a_block_keeps_about_what_was_measured(experts: int, measured: int) -> None:
    config = with_experts(SMOLLM2, experts) if experts else SMOLLM2
    share = replace(whole(config), layers=(3, 4), embedding=False, head=False)
    need = rank_bytes(config, share, 1, WORKLOAD)
    assert need.activations / (4 * WORKLOAD.tokens) == pytest.approx(measured, rel=0.01)


def test_activations_follow_layers_and_micro_batches_in_flight() -> None:
    middle = replace(whole(SMOLLM2), layers=(3, 4), embedding=False, head=False)
    one = rank_bytes(SMOLLM2, middle, 1, WORKLOAD).activations
    longer = replace(middle, layers=(3, 8))
    assert rank_bytes(SMOLLM2, longer, 3, WORKLOAD).activations == 15 * one


def test_the_head_adds_its_logits_once() -> None:
    middle = replace(whole(SMOLLM2), layers=(3, 4), embedding=False, head=False)
    last = replace(middle, head=True)
    more = [
        rank_bytes(SMOLLM2, last, flight, WORKLOAD).activations
        - rank_bytes(SMOLLM2, middle, flight, WORKLOAD).activations
        for flight in (1, 4)
    ]
    logits = 2 * 49152 * min(WORKLOAD.tokens, LOGITS_AT_ONCE // 49152)
    assert more[0] == more[1] == 4 * (WORKLOAD.tokens * 3 * 576 + logits + 49152 * 576)


def test_logits_do_not_grow_with_the_tokens() -> None:
    last = replace(whole(SMOLLM2), layers=(3, 4), embedding=False)
    middle = replace(last, head=False)
    longer = replace(WORKLOAD, micro_batch=64)
    kept, more = (rank_bytes(SMOLLM2, share, 1, longer).activations for share in (middle, last))
    rows = LOGITS_AT_ONCE // 49152
    assert more - kept == 4 * (longer.tokens * 3 * 576 + 2 * 49152 * rows + 49152 * 576)


def test_the_loss_holds_as_many_logits_as_are_counted() -> None:
    assert LOGITS_AT_ONCE == loss.LOGITS_AT_ONCE


@pytest.mark.parametrize(
    ("stage", "micro_batches", "kept"), [(0, 8, 4), (3, 8, 1), (0, 2, 2), (2, 2, 2)]
)
def test_early_stages_keep_more_under_1f1b(stage: int, micro_batches: int, kept: int) -> None:
    assert in_flight(stage, 4, micro_batches) == kept


def test_serving_needs_weights_and_cache_only() -> None:
    serving = replace(WORKLOAD, training=False)
    middle = replace(whole(SMOLLM2), embedding=False, head=False)
    need = rank_bytes(SMOLLM2, middle, 4, serving)
    assert (need.gradients, need.optimizer) == (0, 0)
    cache = 4 * serving.tokens * 30 * 2 * 3 * 64
    shallow = rank_bytes(SMOLLM2, replace(middle, layers=(0, 15)), 4, serving)
    assert need.activations - shallow.activations == cache // 2


def test_a_served_prompt_is_in_the_blocks_in_parts_with_one_row_of_logits() -> None:
    long = replace(WORKLOAD, sequence_length=8192, micro_batch=3, training=False)
    parts = [
        rank_bytes(SMOLLM2, whole(SMOLLM2), 1, replace(long, pass_tokens=tokens)).activations
        for tokens in (1, 101, 8192, 9999)
    ]
    block = 6 * 576 + 2 * (576 + 192) + 4 * 1536
    assert parts[1] - parts[0] == 4 * 3 * 100 * block
    assert parts[2] == parts[3]
    cache = 30 * 2 * 192 * 8192
    assert parts[0] == 4 * 3 * (block + cache + 49152)
    assert replace(long, training=True).tokens_at_once == 3 * 8192


def kept(config: ModelConfig, layer: int, **changes: Any) -> float:
    """Return the floats that one block keeps per token."""
    share = replace(whole(config), layers=(layer, layer + 1), embedding=False, head=False)
    need = rank_bytes(config, replace(share, **changes), 1, WORKLOAD)
    return need.activations / (4 * WORKLOAD.tokens)


def test_each_layer_keeps_what_its_kind_does() -> None:
    dense = kept(SMOLLM2, 0)
    assert kept(FINE, 7) == dense
    attention = dense - 4 * 1536
    assert kept(FINE, 1) == attention + 2 * 384 * 3 + 16 + 4 * 768 + 576
    assert kept(FINE, 1) == pytest.approx(10982, rel=0.01)
    assert kept(FINE, 1) - kept(FINE, 1, ffn=(0, 768)) == 4 * 384
    normed = replace(SMOLLM2, query_key_norm="head")
    assert kept(normed, 0) == dense + 2 * (576 + 192) == pytest.approx(12695, rel=0.01)
    hashed = replace(SMOLLM2, moe=MoeConfig(8, 1, 1536, hashed=True))
    assert kept(hashed, 0) == attention + 2 * 1536 == pytest.approx(8076, rel=0.01)


def test_unlike_layers_add_up_and_serving_holds_the_widest() -> None:
    share = replace(whole(FINE), layers=(6, 9), embedding=False, head=False)
    need = rank_bytes(FINE, share, 2, WORKLOAD)
    assert need.activations == 8 * WORKLOAD.tokens * (2 * kept(FINE, 6) + kept(FINE, 7))
    serving = rank_bytes(FINE, share, 2, replace(WORKLOAD, training=False))
    cache = 3 * 2 * 192 * WORKLOAD.tokens
    assert serving.activations == 4 * (max(kept(FINE, 6), kept(FINE, 7)) * 1024 + cache)
