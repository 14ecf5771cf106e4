"""Plans cut into several spans a stage keep gangs, numbers of layers, and what is recomputed."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.plan.plan import LayerExperts, Plan, StagePlan
from moe.planning.search.interleave import interleave, spans_by_stage
from moe.planning.search.make import even_layers
from tests import runs
from tests.examples import examples
from tests.plans import FINE, SMOLLM2, configs, plans, with_experts


def kinds(config: ModelConfig, layers: tuple[int, ...]) -> Counter[bool]:
    return Counter(map(config.has_experts, layers))


@settings(max_examples=examples(100))
@given(st.data())
def test_stages_keep_their_gang_and_their_number_of_layers(data: st.DataObject) -> None:
    config = data.draw(configs())
    plan = data.draw(plans(config))
    plan = replace(plan, stages=tuple(replace(stage, expert_layout=()) for stage in plan.stages))
    chunks = data.draw(st.integers(1, min(len(stage.layer_numbers) for stage in plan.stages)))
    folded = chunks == 2 and data.draw(st.booleans())
    found = interleave(plan, chunks, folded, config)
    assert (found.chunks, found.folded) == (
        chunks,
        folded or (chunks == 2 and len(plan.stages) == 1),
    )
    for old, new in zip(plan.stages, found.stages, strict=True):
        lengths = [stop - start for start, stop in new.spans]
        assert new.ranks == old.ranks
        assert sum(lengths) == len(old.layer_numbers)
        assert max(lengths) - min(lengths) <= 1
        assert len(new.recompute) == len(old.recompute)
        wanted, there = kinds(config, old.recompute), kinds(config, new.layer_numbers)
        again = kinds(config, new.recompute)
        for kind in (True, False):
            assert again[kind] >= min(wanted[kind], there[kind])


def test_the_first_layers_of_a_kind_are_recomputed() -> None:
    plan = runs.plan(FINE, (15, 15))
    again = (replace(plan.stages[0], recompute=(0, 1, 2, 7)), plan.stages[1])
    found = interleave(replace(plan, stages=again), 2, False, FINE)
    assert found.stages[0].spans == ((0, 8), (16, 23))
    assert found.stages[0].recompute == (0, 1, 2, 7)
    found = interleave(replace(plan, stages=again), 2, True)
    assert found.stages[0].recompute == (0, 1, 2, 3)


def test_seconds_of_other_layers_are_not_kept() -> None:
    plan = runs.plan(SMOLLM2, (10, 20))
    timed = replace(plan, stages=tuple(replace(stage, seconds=1.5) for stage in plan.stages))
    assert {stage.seconds for stage in interleave(timed, 2).stages} == {0.0}
    assert interleave(timed, 1) == timed


@pytest.mark.parametrize(
    ("chunks", "folded", "message"),
    [
        (0, False, "asked for 0 spans of layers a stage; ask for at least 1"),
        (3, True, "asked for 3 spans of layers a stage, folded to a V; a V has 2"),
        (
            11,
            False,
            "stage 0 holds 10 of 30 layers, too few for 11 spans; set plan.chunks to 10 or",
        ),
    ],
)
def test_what_cannot_be_cut_so_is_refused(chunks: int, folded: bool, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        interleave(runs.plan(SMOLLM2, (10, 20)), chunks, folded)


def test_several_runs_are_not_cut_again() -> None:
    with pytest.raises(PlanError, match="has 2 spans of layers a stage already"):
        interleave(interleave(runs.plan(SMOLLM2, (10, 20)), 2), 2)


def test_experts_placed_by_layer_are_refused() -> None:
    config = with_experts(SMOLLM2, 4)
    plan = runs.plan(config, (10, 20), (2, 1), (2, 2))
    stage = replace(plan.stages[1], expert_layout=(LayerExperts(12, ((0, 1), (2, 3))),))
    placed = replace(plan, stages=(plan.stages[0], stage))
    with pytest.raises(PlanError, match="stage 1 has experts of its own for single layers"):
        interleave(placed, 2)
    assert interleave(placed, 1) == placed


@settings(max_examples=examples(50))
@given(st.data())
def test_even_layers_keep_the_number_of_runs_and_their_order(data: st.DataObject) -> None:
    config = data.draw(configs())
    chunks = data.draw(st.integers(1, min(3, config.layers)))
    plan = data.draw(plans(config, chunks))
    even = even_layers(plan)
    assert (even.chunks, even.folded) == (plan.chunks, plan.folded)
    sizes = [len(stage.layer_numbers) for stage in even.stages]
    assert max(sizes) - min(sizes) <= 1
    assert [stage.ranks for stage in even.stages] == [stage.ranks for stage in plan.stages]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 4), st.booleans())
def test_runs_are_as_long_as_asked(lengths: list[int], chunks: int, folded: bool) -> None:
    assume(len(lengths) % chunks == 0 and (not folded or chunks == 2))
    stages = len(lengths) // chunks
    config = replace(SMOLLM2, layers=sum(lengths))
    rank = runs.plan(config, (config.layers,)).stages[0].ranks
    held = spans_by_stage(lengths, stages, folded)
    plan = Plan(config.summary(), tuple(StagePlan(r[0], rank, more=r[1:]) for r in held))
    assert [stop - start for start, stop in plan.chunk_spans] == lengths
