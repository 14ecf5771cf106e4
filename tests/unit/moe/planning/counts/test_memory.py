"""Bytes per rank against the parameter count and the floats that autograd was seen to keep."""

from dataclasses import replace
from typing import Any

import pytest

from actors.step.mail import AHEAD
from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import whole
from moe.config.tensors import parameters, tensors
from moe.nn import loss
from moe.planning.counts.fixed import PROCESS_BYTES
from moe.planning.counts.memory import (
    LOGITS_AT_ONCE,
    MESSAGES_AHEAD,
    Position,
    cache_bytes_per_token,
    rank_bytes,
    working_bytes,
)
from moe.planning.counts.merging import merged_bytes
from moe.planning.counts.workload import BF16, FLOAT32, MEGATRON, Numerics, Workload
from moe.planning.schedules.schedule import in_flight
from tests.plans import FINE, SMOLLM2, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=2, micro_batches=8)
MIDDLE = Position(1, (False, False))


def test_a_whole_model_takes_sixteen_bytes_per_parameter() -> None:
    need = rank_bytes(SMOLLM2, whole(SMOLLM2), Position(), WORKLOAD)
    assert need.weights == 4 * parameters(SMOLLM2) == need.gradients == need.optimizer // 2
    states = 16 * parameters(SMOLLM2)
    assert need.total == states + need.activations + need.working + PROCESS_BYTES


@pytest.mark.parametrize(("experts", "measured"), [(0, 11147), (4, 11161), (8, 11165)])
def test_a_block_keeps_about_what_was_measured(experts: int, measured: int) -> None:
    config = with_experts(SMOLLM2, experts) if experts else SMOLLM2
    share = replace(whole(config), layers=(3, 4), embedding=False, head=False)
    need = rank_bytes(config, share, MIDDLE, WORKLOAD)
    assert need.activations / (4 * WORKLOAD.tokens) == pytest.approx(measured, rel=0.01)


def test_activations_follow_layers_and_micro_batches_in_flight() -> None:
    middle = replace(whole(SMOLLM2), layers=(3, 4), embedding=False, head=False)
    one = rank_bytes(SMOLLM2, middle, MIDDLE, WORKLOAD).activations
    longer = replace(middle, layers=(3, 8))
    assert (
        rank_bytes(SMOLLM2, longer, Position(3, (False, False)), WORKLOAD).activations == 15 * one
    )


def test_the_head_adds_its_logits_once() -> None:
    middle = replace(whole(SMOLLM2), layers=(3, 4), embedding=False, head=False)
    last = replace(middle, head=True)
    more = [
        rank_bytes(SMOLLM2, last, Position(flight, (False, True)), WORKLOAD).activations
        - rank_bytes(SMOLLM2, middle, Position(flight, (False, False)), WORKLOAD).activations
        for flight in (1, 4)
    ]
    logits = 2 * 49152 * min(WORKLOAD.tokens, LOGITS_AT_ONCE // 49152)
    assert more[0] == more[1] == 4 * (WORKLOAD.tokens * 3 * 576 + logits + 49152 * 576)


def test_logits_do_not_grow_with_the_tokens() -> None:
    last = replace(whole(SMOLLM2), layers=(3, 4), embedding=False)
    middle = replace(last, head=False)
    longer = replace(WORKLOAD, micro_batch=64)
    kept, more = (
        rank_bytes(SMOLLM2, share, Position(1, (False, share.head)), longer).activations
        for share in (middle, last)
    )
    rows = LOGITS_AT_ONCE // 49152
    assert more - kept == 4 * (longer.tokens * 3 * 576 + 2 * 49152 * rows + 49152 * 576)


def test_the_loss_holds_as_many_logits_as_are_counted() -> None:
    assert LOGITS_AT_ONCE == loss.LOGITS_AT_ONCE


@pytest.mark.parametrize(
    ("stage", "micro_batches", "kept"), [(0, 8, 4), (3, 8, 1), (0, 4, 4), (2, 4, 2)]
)
def test_early_stages_keep_more_under_1f1b(stage: int, micro_batches: int, kept: int) -> None:
    assert in_flight("1f1b", 4, micro_batches)[stage] == kept


def test_serving_needs_weights_and_cache_only() -> None:
    serving = replace(WORKLOAD, training=False)
    middle = replace(whole(SMOLLM2), embedding=False, head=False)
    need = rank_bytes(SMOLLM2, middle, MIDDLE, serving)
    assert (need.gradients, need.optimizer) == (0, 0)
    cache = 4 * serving.tokens * 30 * 2 * 3 * 64
    shallow = rank_bytes(SMOLLM2, replace(middle, layers=(0, 15)), MIDDLE, serving)
    assert need.activations - shallow.activations == cache // 2


def test_a_served_prompt_is_in_the_blocks_in_parts_with_one_row_of_logits() -> None:
    long = replace(WORKLOAD, sequence_length=8192, micro_batch=3, training=False)
    parts = [
        rank_bytes(
            SMOLLM2, whole(SMOLLM2), Position(), replace(long, pass_tokens=tokens)
        ).activations
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
    need = rank_bytes(config, replace(share, **changes), MIDDLE, WORKLOAD)
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
    merged = replace(SMOLLM2, moe=MoeConfig(8, 1, 1536, segment_tokens=256))
    assert kept(merged, 0) == kept(hashed, 0) + 8


def test_merged_experts_are_in_memory_a_group_at_a_time_and_their_gates_in_the_cache() -> None:
    moe = MoeConfig(8, 1, 1536, segment_tokens=256, dense_layers=(0,))
    config = replace(SMOLLM2, moe=moe)
    share = replace(whole(config), layers=(1, 3), embedding=False, head=False)
    work = [working_bytes(each, share, MIDDLE, WORKLOAD) for each in (config, SMOLLM2)]
    numbers, segments = 3 * 576 * 1536, 2 * 512 // 256
    assert work[0] - work[1] == (4 + 4 + 4) * numbers * segments
    longer = replace(WORKLOAD, sequence_length=8192)
    assert merged_bytes(config, share, 1, longer) == (4 + 4 + 4) * numbers * 6  # of 64 segments
    serving = replace(WORKLOAD, training=False)
    assert merged_bytes(config, share, 1, serving) == 4 * numbers
    cached = [cache_bytes_per_token(each, share, serving) for each in (config, SMOLLM2)]
    assert cached[0] - cached[1] == 2 * 8 * 4
    dense = replace(share, layers=(0, 1))
    assert merged_bytes(config, dense, 0, WORKLOAD) == 0


def test_unlike_layers_add_up_and_serving_holds_the_widest() -> None:
    share = replace(whole(FINE), layers=(6, 9), embedding=False, head=False)
    need = rank_bytes(FINE, share, Position(2, (False, False)), WORKLOAD)
    assert need.activations == 8 * WORKLOAD.tokens * (2 * kept(FINE, 6) + kept(FINE, 7))
    serving = rank_bytes(FINE, share, MIDDLE, replace(WORKLOAD, training=False))
    cache = 3 * 2 * 192 * WORKLOAD.tokens
    assert serving.activations == 4 * (max(kept(FINE, 6), kept(FINE, 7)) * 1024 + cache)


def test_a_recomputed_block_keeps_its_input_and_one_is_whole_for_a_while() -> None:
    share = replace(whole(FINE), layers=(5, 10), embedding=False, head=False)
    position = Position(3, (False, False))
    plain = rank_bytes(FINE, share, position, WORKLOAD).activations / (4 * WORKLOAD.tokens)
    mixed, dense = kept(FINE, 6), kept(FINE, 7)
    for recompute, whole_once in (((6,), mixed), ((6, 7), dense), (range(5, 10), dense)):
        need = rank_bytes(FINE, share, position, WORKLOAD, recompute).activations
        freed = sum(kept(FINE, layer) - 576 for layer in recompute)
        assert need / (4 * WORKLOAD.tokens) == pytest.approx(plain - 3 * freed + whole_once)


def test_a_backward_pass_makes_gradients_of_a_block_of_an_end_and_of_logits_beside() -> None:
    logits = 4 * 49152 * (LOGITS_AT_ONCE // 49152)
    ends = 4 * 49152 * 576
    block = 4 * (6 * 576 + 2 * (576 + 192) + 4 * 1536) * WORKLOAD.tokens
    for position, more in (
        ((False, False), 0),
        ((True, False), ends),
        ((False, True), ends + logits),
    ):
        need = rank_bytes(SMOLLM2, whole(SMOLLM2), Position(1, position), WORKLOAD)
        fragments = need.working - block - more
        assert 0 <= fragments <= 0.2 * need.activations


@pytest.mark.parametrize(
    ("zero", "spread"), [(0, (4, 4, 8)), (1, (4, 4, 2)), (2, (4, 1, 2)), (3, (1, 1, 2))]
)
def test_zero_spreads_states_over_replicas(zero: int, spread: tuple[int, int, int]) -> None:
    need = rank_bytes(SMOLLM2, whole(SMOLLM2), Position(), replace(WORKLOAD, zero=zero), (), 4)
    count = parameters(SMOLLM2)
    assert (need.weights, need.gradients, need.optimizer) == tuple(each * count for each in spread)


def test_numbers_have_the_bytes_of_their_kind() -> None:
    workload = replace(WORKLOAD, numerics=MEGATRON)
    need = rank_bytes(SMOLLM2, whole(SMOLLM2), Position(), workload)
    count = parameters(SMOLLM2)
    assert (need.weights, need.gradients, need.optimizer) == (2 * count, 4 * count, 12 * count)
    float32 = rank_bytes(SMOLLM2, whole(SMOLLM2), Position(), WORKLOAD)
    assert need.activations == float32.activations // 2


@pytest.mark.parametrize(
    ("ends", "tensors"),
    [((True, True), 0), ((True, False), 5), ((False, False), 13), ((False, True), 8)],
)
def test_messages_stay_while_their_micro_batch_is_in_flight(
    ends: tuple[bool, bool], tensors: int
) -> None:
    """Of two in flight: two inputs and their gradients, two outputs; of each kind two ahead."""
    need = rank_bytes(SMOLLM2, whole(SMOLLM2), Position(2, ends), WORKLOAD)
    assert need.buffers == tensors * WORKLOAD.tokens * 576 * 4


@pytest.mark.parametrize("config", [SMOLLM2, with_experts(SMOLLM2, 4)])
def test_a_bf16_run_takes_the_bytes_of_its_tensors(config: ModelConfig) -> None:
    workload = replace(WORKLOAD, numerics=BF16)
    one, four = (rank_bytes(config, whole(config), Position(), workload, (), n) for n in (1, 4))
    exact = sum(part.elements for part in tensors(config) if part.role.exact)
    narrow = parameters(config) - exact
    assert one.weights == four.weights == 2 * narrow + 4 * exact
    assert one.gradients == four.gradients == 4 * (narrow + exact)
    assert one.optimizer == 12 * narrow + 8 * exact == 4 * four.optimizer
    assert 0 < exact < narrow / 1000
    assert workload.exchanged == 3
    assert replace(workload, zero=0).exchanged == WORKLOAD.exchanged == 4
    serving = replace(workload, training=False)
    need = rank_bytes(config, whole(config), Position(), serving)
    assert need == rank_bytes(config, whole(config), Position(), replace(WORKLOAD, training=False))


def test_messages_ahead_are_those_that_actors_ask_for() -> None:
    assert MESSAGES_AHEAD == AHEAD


@pytest.mark.parametrize("replicas", [1, 3])
def test_snapshots_copy_what_each_replica_writes(replicas: int) -> None:
    position, share = Position(), whole(SMOLLM2)
    saving = replace(WORKLOAD, snapshots=True)
    more = rank_bytes(SMOLLM2, share, position, saving, replicas=replicas)
    less = rank_bytes(SMOLLM2, share, position, WORKLOAD, replicas=replicas)
    assert more.total - less.total == more.snapshot == -(-12 * parameters(SMOLLM2) // replicas)
    serving = replace(saving, training=False)
    assert rank_bytes(SMOLLM2, share, position, serving).snapshot == 0


@pytest.mark.parametrize("numerics", [FLOAT32, BF16])
def test_four_copies_of_what_a_rank_alone_holds_are_counted(numerics: Numerics) -> None:
    """On a CPU with the rest of the rank, on a GPU with its host."""
    position, share = Position(), whole(SMOLLM2)
    without = replace(WORKLOAD, numerics=numerics)
    more, less = (
        rank_bytes(SMOLLM2, share, position, replace(without, copies=copies), replicas=3)
        for copies in (True, False)
    )
    assert more.total - less.total == more.copies == 4 * (4 * parameters(SMOLLM2))
    on_gpu, gpu_without = (
        rank_bytes(SMOLLM2, share, position, replace(without, copies=copies, gpus=True))
        for copies in (True, False)
    )
    assert on_gpu.total == gpu_without.total
    assert on_gpu.host - gpu_without.host == 4 * 12 * parameters(SMOLLM2)
    serving = replace(without, copies=True, training=False)
    assert rank_bytes(SMOLLM2, share, position, serving).copies == 0
