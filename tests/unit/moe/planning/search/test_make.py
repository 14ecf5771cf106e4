"""Making plans: what comes out for SmolLM2, unlike devices, and every refusal."""

import re
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import shared_span
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import predict
from moe.planning.search.make import even_layers, make_plan
from moe.planning.search.pins import Pins
from moe.planning.search.question import Question
from moe.planning.search.search import search
from moe.planning.stages.split import split
from tests.examples import examples
from tests.plans import FINE, SMOLLM2, configs, device, inventory, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=1, micro_batches=8)
SMALL = Workload(sequence_length=16, micro_batch=2, micro_batches=7)


def sizes(plan: Plan) -> list[int]:
    return [stage.layers[1] - stage.layers[0] for stage in plan.stages]


@pytest.mark.parametrize(
    ("experts", "expected"),
    [
        (0, [[30], [19, 11], [12, 13, 5], [9, 10, 9, 2]]),
        (4, [[30], [17, 13], [11, 12, 7], [9, 9, 8, 4]]),
        (8, [[30], [17, 13], [11, 12, 7], [8, 9, 9, 4]]),
    ],
)
def test_smollm2_is_cut_unevenly_because_of_its_head(
    experts: int, expected: list[list[int]]
) -> None:
    config = with_experts(SMOLLM2, experts) if experts else SMOLLM2
    made = [make_plan(config, inventory(4), stages, 1, WORKLOAD) for stages in (1, 2, 3, 4)]
    assert [sizes(plan) for plan in made] == expected


@settings(max_examples=examples(60))
@given(st.data())
def test_no_other_cut_of_the_same_gangs_is_faster(data: st.DataObject) -> None:
    config = data.draw(configs())
    limits = (config.kv_heads, config.ffn_size, config.experts, config.shared_size)
    smallest = min(limit for limit in limits if limit)
    stages = data.draw(st.integers(1, config.layers))
    gang = data.draw(st.integers(1, min(smallest, 3)))
    speeds = data.draw(
        st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=stages * gang, max_size=20)
    )
    there = Inventory(
        tuple(
            device(f"d{number}", "ab"[number % 2], speed=speed)
            for number, speed in enumerate(speeds)
        )
    )
    plan = make_plan(config, there, stages, gang, SMALL)
    predicted = predict(config, plan, there, SMALL)
    assert [stage.seconds for stage in plan.stages] == list(predicted.stage_seconds)
    assert len({plan.rank(seat).device for seat in plan.seats}) == stages * gang
    others = combinations(range(1, config.layers), stages - 1)
    best = min(
        predict(config, recut(plan, (0, *cut, config.layers)), there, SMALL).step_seconds
        for cut in others
    )
    assert predicted.step_seconds <= best * (1 + 1e-12)


def recut(plan: Plan, edges: tuple[int, ...]) -> Plan:
    cuts = zip(plan.stages, pairwise(edges), strict=True)
    return replace(plan, stages=tuple(replace(stage, layers=cut) for stage, cut in cuts))


def test_a_gang_splits_heads_columns_and_experts_by_speed() -> None:
    there = Inventory((device("slow"), device("fast", speed=2.0)))
    plan = make_plan(with_experts(SMOLLM2, 8), there, 1, 2, WORKLOAD)
    fast, slow = plan.stages[0].ranks
    assert (fast.device, slow.device) == ("fast", "slow")
    assert (fast.kv_heads, slow.kv_heads) == ((0, 2), (2, 3))
    assert (fast.ffn, slow.ffn) == ((0, 1024), (1024, 1536))
    assert (fast.experts, slow.experts) == ((0, 1, 2, 3, 4), (5, 6, 7))


def test_a_fast_stage_holds_more_layers() -> None:
    there = Inventory((device("slow"), device("fast", threads=4)))
    alike = make_plan(SMOLLM2, inventory(2), 2, 1, WORKLOAD)
    unlike = make_plan(SMOLLM2, there, 2, 1, WORKLOAD)
    assert sizes(unlike)[1] > sizes(alike)[1]
    assert [unlike.rank(seat).threads for seat in unlike.seats] == [1, 4]


def test_cpus_and_gpus_in_one_inventory_are_refused() -> None:
    there = Inventory((device("a/cpu0"), device("b/gpu0", kind="T4"), device("b/gpu1", kind="T4")))
    with pytest.raises(PlanError) as caught:
        make_plan(SMOLLM2, there, 2, 1, WORKLOAD)
    assert str(caught.value) == (
        "the inventory has CPU devices (1, the first is a/cpu0) and GPUs (2, the first is b/gpu0), "
        "whose ranks cannot talk to each other (gloo, nccl, rccl); keep the devices of one backend"
    )


def test_unlike_devices_are_chosen_and_put_in_the_order_that_takes_least() -> None:
    there = Inventory(
        tuple(device(f"a/{number}", speed=speed) for number, speed in enumerate([1, 3, 1, 2]))
    )
    plan = make_plan(SMOLLM2, there, 2, 1, WORKLOAD)
    assert {rank.device for stage in plan.stages for rank in stage.ranks} == {"a/1", "a/3"}


def test_even_layers_keep_gangs_and_are_never_faster() -> None:
    there = inventory(4)
    plan = make_plan(SMOLLM2, there, 4, 1, WORKLOAD)
    even = even_layers(plan)
    assert sizes(even) == [8, 8, 7, 7]
    assert [stage.ranks for stage in even.stages] == [stage.ranks for stage in plan.stages]
    uniform = predict(SMOLLM2, even, there, WORKLOAD).step_seconds
    assert uniform > predict(SMOLLM2, plan, there, WORKLOAD).step_seconds


@pytest.mark.parametrize(
    ("config", "stages", "gang", "message"),
    [
        (SMOLLM2, 3, 2, r"plan needs 6 ranks \(3 stages x gang of 2\) but 4 devices are there; "),
        (SMOLLM2, 0, 1, "stages is pinned to 0; pin it to at least 1"),
        (SMOLLM2, 1, -1, "gang is pinned to -1; pin it to at least 1"),
        (replace(SMOLLM2, layers=2), 3, 1, "needs 3 stages but the model has 2 layers"),
        (SMOLLM2, 1, 4, "gang of 4 ranks but the model has 3 key-value heads.*lower plan.gang"),
        (with_experts(SMOLLM2, 2), 1, 3, "gang of 3 ranks but the model has 2 experts"),
        (replace(SMOLLM2, ffn_size=1), 1, 2, "the model has 1 feed-forward columns"),
        (
            replace(SMOLLM2, moe=MoeConfig(8, 2, 9, shared_size=2)),
            1,
            3,
            "the model has 2 columns of the shared expert.*lower plan.gang to 2",
        ),
    ],
)
def test_impossible_shapes_are_refused(
    config: ModelConfig, stages: int, gang: int, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        make_plan(config, inventory(4), stages, gang, WORKLOAD)


def test_a_rank_that_does_not_fit_is_named() -> None:
    there = Inventory((device("big"), device("small", memory_bytes=10**9)))
    with pytest.raises(PlanError) as caught:
        make_plan(SMOLLM2, there, 2, 1, WORKLOAD)
    message = str(caught.value)
    assert re.match(
        r"rank 1 \(stage 1\) needs 2\.\d\d GB \(weights 0\.\d\d GB, gradients 0\.\d\d GB, ", message
    )
    assert "but device small has 1.00 GB; raise plan.stages or plan.gang" in message
    make_plan(SMOLLM2, there, 2, 1, replace(WORKLOAD, sequence_length=64, training=False))


@pytest.mark.parametrize(
    ("there", "sequences", "pins", "message"),
    [
        (
            Inventory((device("a", memory_bytes=6 * 10**8),)),
            8,
            Pins(),
            r"rank 0 \(stage 0\) needs .* but device a has 0\.60 GB; raise .*",
        ),
        (inventory(4), 8, Pins(stages=5), "needs 5 ranks .* but 4 devices are there; lower"),
        (inventory(4), 8, Pins(gang=4), "gang of 4 ranks but the model has 3 key-value heads"),
        (inventory(4), 7, Pins(micro_batch=2), "a step has 7 sequences, .* a multiple of 2"),
        (inventory(4), 2, Pins(stages=3), "1f1b of 3 stages needs at least 3 micro-batches but"),
        (
            Inventory((device("a"), device("b", "b")), (Link(("a", "b"), 0.0),)),
            8,
            Pins(stages=2),
            "no order of the devices connects the 2 stages of a pipeline; add links between",
        ),
        (
            Inventory((device("a"), device("b", "b")), (Link(("a", "b"), 0.0),)),
            8,
            Pins(gang=2),
            "needs 1 stages of 1 x 2 ranks, but the 2 devices form only 0: .* must be connected",
        ),
    ],
)
def test_impossible_inventories_are_refused_with_what_would_help(
    there: Inventory, sequences: int, pins: Pins, message: str
) -> None:
    workload = replace(WORKLOAD, micro_batches=1)
    with pytest.raises(PlanError, match=message):
        search(Question(SMOLLM2, there, workload, sequences, pins))


def test_one_device_one_layer_and_seven_unlike_devices_are_planned() -> None:
    one = replace(SMOLLM2, layers=1)
    speeds = [1.0, 1.3, 0.7, 2.0, 1.7, 0.9, 2.6]
    seven = Inventory(
        tuple(
            device(f"d{number}", "ab"[number % 2], speed=speed, memory_bytes=(number + 3) * 10**9)
            for number, speed in enumerate(speeds)
        )
    )
    for config, there in ((SMOLLM2, inventory(1)), (one, inventory(1)), (one, seven)):
        found = search(Question(config, there, WORKLOAD, 8))
        assert found.gap == 0
        assert len(found.plan.stages) == 1
    found = search(Question(replace(SMOLLM2, layers=8), seven, WORKLOAD, 8))
    assert found.gap == 0
    assert found.plan.ranks * found.plan.replicas > 3


def test_unconnected_devices_are_left_out() -> None:
    there = Inventory((device("a"), device("b", "b")), (Link(("a", "b"), 0.0),))
    found = search(Question(SMOLLM2, there, WORKLOAD, 8))
    assert found.plan.ranks * found.plan.replicas == 1


def test_dense_layers_weigh_what_they_cost() -> None:
    wide = replace(FINE, layers=8, ffn_size=12 * 1536, vocab_size=64)
    assert wide.moe is not None
    for dense, expected in (((0,), [1, 7]), ((7,), [7, 1]), ((0, 7), [4, 4]), ((), [4, 4])):
        config = replace(wide, moe=replace(wide.moe, dense_layers=dense))
        assert sizes(make_plan(config, inventory(2), 2, 1, WORKLOAD)) == expected


def narrow(shared: int) -> ModelConfig:
    moe = MoeConfig(experts=8, top_k=2, expert_size=16, shared_size=shared)
    return replace(SMOLLM2, ffn_size=1000, moe=moe, layers=2)


@pytest.mark.parametrize("shared", [3, 4, 7, 1000, 1001])
def test_no_rank_is_without_a_part_of_the_shared_expert(shared: int) -> None:
    there = Inventory((device("a", speed=50.0), device("b", speed=1.0), device("c", speed=0.1)))
    config = narrow(shared)
    plan = make_plan(config, there, 1, 3, SMALL)
    cut = [shared_span(config, rank.ffn) for rank in plan.stages[0].ranks]
    assert all(start < stop for start, stop in cut)
    widest = split(shared, 3, [50.0, 1.0, 0.1])[0]
    assert cut[0][1] - cut[0][0] == pytest.approx(widest, abs=1)


def test_columns_follow_speed_where_the_shared_expert_allows() -> None:
    plan = make_plan(narrow(4), inventory(3), 1, 3, SMALL)
    assert [rank.ffn for rank in plan.stages[0].ranks] == [(0, 334), (334, 667), (667, 1000)]
