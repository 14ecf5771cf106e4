"""Plans: the file and back, every tensor held once, bad plans refused, moves between two."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig
from moe.config.share import shared_span
from moe.config.tensors import EMBEDDING, HEAD, TensorSlice, answers_for, held_by, tensors
from moe.errors import PlanError
from moe.planning.plan.checks import shared_columns
from moe.planning.plan.file import from_dict, load_plan, save_plan, to_dict
from moe.planning.plan.plan import Plan, StagePlan
from moe.planning.plan.seats import Seat
from tests.examples import examples
from tests.plans import FINE, SMOLLM2, any_plans, configs, single, with_experts

SOME = settings(max_examples=examples(60))


def planned(count: int) -> st.SearchStrategy[tuple[ModelConfig, list[Plan]]]:
    """Draw a model and so many plans for it."""
    return configs().flatmap(
        lambda config: st.tuples(
            st.just(config), st.lists(any_plans(config), min_size=count, max_size=count)
        )
    )


def cells(config: ModelConfig, plan: Plan, seat: Seat) -> dict[str, np.ndarray[Any, Any]]:
    """Return a mask per tensor of the elements a rank holds."""
    masks = {}
    for held in held_by(config, plan.share(seat)):
        mask = np.zeros(held.shape, dtype=np.int64)
        index = [slice(None)] * len(held.shape)
        if held.dim is not None:
            index[held.dim] = slice(held.start, held.stop)
        mask[tuple(index)] = 1
        assert mask.sum() == held.elements
        masks[held.name] = mask
    return masks


def home(plan: Plan, layer: int) -> int:
    """Return the stage of a layer."""
    return next(n for n, stage in enumerate(plan.stages) if layer in stage.layer_numbers)


def replicas(config: ModelConfig, plan: Plan, tensor: TensorSlice) -> int:
    """Return how many ranks are meant to hold each element of a tensor."""
    gang = plan.gang_size
    if config.query_key_norm == "all" and "_norm." in tensor.name:
        return 1
    if tensor.name in (EMBEDDING, HEAD):
        homes = [home(plan, layer) for layer in (0, config.layers - 1)]
        stage = plan.stages[homes[0 if tensor.name == EMBEDDING else 1]]
        ends = len(set(homes)) if config.tie_embeddings else 1
        return ends * (gang if stage.ranks[0].vocabulary is None else 1)
    split = any(
        part in tensor.name
        for part in (
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj.weight",
            "experts",
            "gate_proj",
            "up_proj",
            "down_proj.weight",
        )
    )
    return 1 if split else gang


@SOME
@given(planned(1))
def test_every_element_is_held_as_often_as_it_should_be(
    drawn: tuple[ModelConfig, list[Plan]],
) -> None:
    config, (plan,) = drawn
    total: dict[str, Any] = defaultdict(int)
    for seat in plan.seats.of_replica(0):
        for name, mask in cells(config, plan, seat).items():
            total[name] = total[name] + mask
    expected = list(tensors(config))
    assert set(total) == {tensor.name for tensor in expected}
    for tensor in expected:
        assert (total[tensor.name] == replicas(config, plan, tensor)).all(), tensor.name


@SOME
@given(planned(1))
def test_exactly_one_rank_answers_for_every_element(
    drawn: tuple[ModelConfig, list[Plan]],
) -> None:
    config, (plan,) = drawn
    total: dict[str, Any] = defaultdict(int)
    for seat in plan.seats.of_replica(0):
        share, masks = plan.share(seat), cells(config, plan, seat)
        for held in held_by(config, share):
            if answers_for(config, share, held):
                total[held.name] = total[held.name] + masks[held.name]
    for tensor in tensors(config):
        assert (total[tensor.name] == 1).all(), tensor.name


@SOME
@given(planned(1))
def test_one_leader_per_stage_and_ends_at_the_ends(
    drawn: tuple[ModelConfig, list[Plan]],
) -> None:
    _, (plan,) = drawn
    for seat in plan.seats:
        share, stage = plan.share(seat), plan.stages[seat.stage]
        assert share.leader == (seat.member == 0)
        assert share.embedding == (seat.stage == home(plan, 0))
        assert share.head == (seat.stage == home(plan, plan.model["layers"] - 1))
        assert share.layer_numbers == stage.layer_numbers
        assert plan.rank(seat) is stage.ranks[seat.member]


@SOME
@given(planned(1))
def test_file_and_json_return_the_same_value(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[ModelConfig, list[Plan]]
) -> None:
    _, (plan,) = drawn
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    save_plan(plan, path)
    assert load_plan(path) == plan
    assert from_dict(json.loads(json.dumps(to_dict(plan)))) == plan


Change = Callable[[dict[str, Any]], object]


def stage(table: dict[str, Any]) -> Any:
    return table["stages"][0]


def rank(table: dict[str, Any]) -> Any:
    return table["stages"][0]["ranks"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.clear(), "plan: model is missing"),
        (lambda table: table.pop("stages"), "plan: stages is missing"),
        (lambda table: table.update(stages=[]), "the plan has no stage or no rank"),
        (lambda table: table.update(stages=3), "plan: stages is not a list of tables"),
        (lambda table: table.update(stage=3), "unknown key stage; did you mean stages?"),
        (lambda table: table.update(model=3), "model is 3; expected a table"),
        (lambda table: table["model"].pop("experts"), "the plan's model: experts is missing"),
        (lambda table: table["model"].update(layers=30.5), "layers is 30.5; expected a whole"),
        (lambda table: table["model"].update(layers=31), "hold 30 layers but the model has 31"),
        (lambda table: table["model"].update(kv_heads=4), "stage 0 holds 3 key-value heads"),
        (lambda table: table["model"].update(ffn_size=9), "holds 1536 feed-forward columns"),
        (lambda table: stage(table).update(layers=[1, 30]), r"layers \[1, 30\) but layer 0"),
        (lambda table: stage(table).update(layers=[0, 0]), r"layers \[0, 0\) but layer 0"),
        (lambda table: stage(table).update(layers=[0]), "expected two whole numbers"),
        (lambda table: stage(table).update(layers="all"), "layers is 'all'; expected a list"),
        (lambda table: stage(table).update(more=7), r"more is 7; expected a list of spans"),
        (lambda table: stage(table).update(more=[3]), "more is 3; expected a list of whole"),
        (lambda table: stage(table).update(more=[[3]]), "expected two whole numbers"),
        (lambda table: stage(table).update(more=[[30, 31]]), "hold 31 layers but the model has 30"),
        (
            lambda table: stage(table).update(more=[[29, 30]]),
            "but layer 30 is next; give every chunk",
        ),
        (lambda table: stage(table).update(seconds="1"), "seconds is '1'; expected a number"),
        (lambda table: stage(table).update(seconds=float("nan")), "seconds = nan; give a finite"),
        (lambda table: stage(table).update(seconds=-1.0), "seconds = -1.0; give a finite number"),
        (lambda table: stage(table).update(ranks=[]), "the plan has no stage or no rank"),
        (lambda table: stage(table).update(speed=1), "stage 0: unknown key speed"),
        (lambda table: rank(table).pop("devices"), "stage 0 rank 0: devices is missing"),
        (
            lambda table: rank(table).update(devices="a/0"),
            "devices is 'a/0'; expected a list of texts",
        ),
        (lambda table: rank(table).update(devices=[7]), "devices is 7; expected text"),
        (lambda table: rank(table).update(devices=[]), "names 0 devices for a rank"),
        (lambda table: rank(table).update(vocabulary=[0, 9]), "holds 9 rows of the vocabulary"),
        (lambda table: stage(table).update(recompute=[30]), "recompute names layer 30, the stage"),
        (lambda table: stage(table).update(recompute=[2, 2]), "recompute names a layer twice"),
        (
            lambda table: stage(table).update(placement=[{"layer": 31, "experts": []}]),
            "layer 31",
        ),
        (
            lambda table: stage(table).update(placement=[{"layer": 3, "experts": [[0], [1]]}]),
            "stage 0 layer 3 has experts for 2 ranks, the gang has 1",
        ),
        (
            lambda table: stage(table).update(placement=[{"layer": 3, "experts": [[0, 1, 2]]}]),
            r"stage 0 layer 3 holds experts \[0, 1, 2\]",
        ),
        (lambda table: rank(table).update(threads=0), "device a/0 computes with no thread"),
        (lambda table: rank(table).update(gpu=7), "stage 0 rank 0: unknown key gpu"),
        (lambda table: rank(table).update(kv_heads=[0, 2]), "holds 2 key-value heads"),
        (lambda table: rank(table).update(kv_heads=[1, 3]), r"span \[1, 3\) should begin at 0"),
        (lambda table: rank(table).update(experts=[0, 1, 1]), r"holds experts \[0, 1, 1\]"),
        (lambda table: rank(table).update(experts=[True]), "experts is True; expected a whole"),
        (lambda table: stage(table)["ranks"].append(rank(table)), "should begin at 3"),
        (lambda table: table["stages"].append(stage(table)), "but layer 30 is next"),
    ],
)
def test_bad_plans_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    table = to_dict(single(with_experts(SMOLLM2, 4)))
    table["stages"] = [{**each, "ranks": list(each["ranks"])} for each in table["stages"]]
    change(table)
    path = tmp_path / "plan.toml"
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    with pytest.raises(PlanError, match=r"plan\.toml") as caught:
        load_plan(path)
    assert caught.match(message)


def test_gangs_of_two_sizes_are_refused() -> None:
    plan = single(SMOLLM2)
    whole = plan.stages[0].ranks[0]
    pair = (
        replace(whole, kv_heads=(0, 1), ffn=(0, 9)),
        replace(whole, kv_heads=(1, 3), ffn=(9, 1536)),
    )
    first = replace(plan.stages[0], layers=(0, 10))
    second = replace(plan.stages[0], layers=(10, 30), ranks=pair)
    with pytest.raises(PlanError, match="stage 1 has 2 ranks, stage 0 has 1"):
        Plan(plan.model, (first, second))


def two_by_two(kinds: list[str], experts: int) -> Plan:
    """Return two stages of two ranks on devices of these kinds."""
    config = with_experts(SMOLLM2, experts) if experts else SMOLLM2
    whole = single(config).stages[0].ranks[0]
    halves = (
        {"kv_heads": (0, 1), "ffn": (0, 9), "experts": whole.experts[:1]},
        {"kv_heads": (1, 3), "ffn": (9, 1536), "experts": whole.experts[1:]},
    )
    ranks = [
        replace(whole, devices=(f"a/{number}",), kind=kind, **halves[number % 2])
        for number, kind in enumerate(kinds)
    ]
    cuts = (((0, 10), tuple(ranks[:2])), ((10, 30), tuple(ranks[2:])))
    return Plan(config.summary(), tuple(StagePlan(*cut) for cut in cuts))


def test_kinds_that_cannot_work_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    save_plan(two_by_two(["T4", "T4", "cpu", "cpu"], 0), path)
    with pytest.raises(PlanError, match=r"CPU devices \(2, the first is a/2\) and GPUs \(2, "):
        load_plan(path)
    for fine in (two_by_two(["T4", "T4", "L4", "L4"], 4), two_by_two(["T4", "L4"] * 2, 4)):
        save_plan(fine, path)
        assert load_plan(path) == fine


def test_files_that_are_no_plan_are_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no plan at .*plan\.toml; make one with") as caught:
        load_plan(tmp_path / "plan.toml")
    assert f"`raymoe plan MODEL --ray --to {tmp_path}/plan.toml`" in str(caught.value)
    with pytest.raises(PlanError, match="cannot read the plan"):
        load_plan(tmp_path)
    (tmp_path / "plan.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match="is not TOML"):
        load_plan(tmp_path / "plan.toml")
    with pytest.raises(PlanError, match="cannot write the plan"):
        save_plan(single(SMOLLM2), tmp_path)


def test_a_plan_for_another_model_is_refused() -> None:
    plan = single(SMOLLM2)
    plan.check_model(SMOLLM2)
    with pytest.raises(PlanError, match="made for experts = 0, the model has 8"):
        plan.check_model(with_experts(SMOLLM2, 8))


@pytest.mark.parametrize("seat", [Seat(1, 0, 0), Seat(0, 1, 0), Seat(0, 0, -1)])
def test_a_seat_that_is_not_there_is_refused(seat: Seat) -> None:
    with pytest.raises(PlanError, match=f"asked for {seat} of 1 replicas x 1 stages x 1 members"):
        single(SMOLLM2).share(seat)
    with pytest.raises(PlanError, match=f"asked for {seat} of 1 replicas x 1 stages x 1 members"):
        single(SMOLLM2).rank(seat)


def test_a_rank_without_a_part_of_the_shared_expert_is_refused() -> None:
    assert FINE.moe is not None
    config = replace(FINE, moe=replace(FINE.moe, shared_size=2))
    whole = single(config).stages[0].ranks[0]

    def halves(cut: int) -> Plan:
        left = replace(whole, kv_heads=(0, 1), ffn=(0, cut), experts=(0,))
        right = replace(whole, kv_heads=(1, 3), ffn=(cut, 1536), experts=tuple(range(1, 16)))
        return Plan(config.summary(), (StagePlan((0, 30), (left, right)),))

    assert halves(768).gang_size == 2
    message = r"stage 0 rank 0: ffn span \[0, 767\) of 1536 columns brings none of the 2 columns"
    with pytest.raises(PlanError, match=message) as caught:
        halves(767)
    assert "give the rank a wider ffn span, or lower plan.gang" in str(caught.value)


@SOME
@given(planned(1))
def test_a_plan_cuts_the_shared_expert_as_a_share_does(
    drawn: tuple[ModelConfig, list[Plan]],
) -> None:
    config, (plan,) = drawn
    sizes = (config.ffn_size, config.shared_size)
    for rank in plan.stages[0].ranks:
        assert shared_columns(rank.ffn, *sizes) == shared_span(config, rank.ffn)
