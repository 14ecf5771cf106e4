"""Bytes per rank against the parameter count and the floats that autograd was seen to keep."""

from dataclasses import replace

import pytest

from moe.config.share import whole
from moe.config.tensors import parameters
from moe.planning.costs import Workload
from moe.planning.memory import PROCESS_BYTES, in_flight, rank_bytes
from tests.plans import SMOLLM2, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=2, micro_batches=8)


def test_a_whole_model_takes_sixteen_bytes_per_parameter() -> None:
    need = rank_bytes(SMOLLM2, whole(SMOLLM2), 1, WORKLOAD)
    assert need.weights == 4 * parameters(SMOLLM2) == need.gradients == need.optimizer // 2
    assert need.total == 16 * parameters(SMOLLM2) + need.activations + PROCESS_BYTES


@pytest.mark.parametrize(("experts", "measured"), [(0, 11147), (4, 20768), (8, 20772)])
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
    assert more[0] == more[1] == 4 * WORKLOAD.tokens * 3 * (49152 + 576)


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
