"""Widths of a gang: all of the model once, in proportion; the paper's heads; the reasons."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import shared_span
from moe.errors import PlanError
from moe.planning.plan.plan import Plan, RankPlan, StagePlan
from moe.planning.stages.widths import check_width, cut_width, explain_heads, widest
from tests.examples import examples
from tests.plans import FINE, SMOLLM2, configs, with_experts


@settings(max_examples=examples(200))
@given(st.data())
def test_widths_of_any_weights_make_a_stage_that_a_plan_accepts(data: st.DataObject) -> None:
    config = data.draw(configs())
    gang = data.draw(st.integers(1, widest(config)))
    weights = data.draw(st.lists(st.floats(1e-3, 1e3), min_size=gang, max_size=gang))
    ranks = tuple(
        RankPlan(
            (f"a/{number}",),
            width.kv_heads,
            width.ffn,
            width.experts,
            vocabulary=width.vocabulary,
        )
        for number, width in enumerate(cut_width(config, weights))
    )
    plan = Plan(config.summary(), (StagePlan((0, config.layers), ranks),))
    plan.check_model(config)
    for rank in ranks:
        assert rank.kv_heads[0] < rank.kv_heads[1]
        assert bool(config.placed_experts) == bool(rank.experts)
        assert (rank.vocabulary is None) == (gang == 1)
        if config.shared_size:
            start, stop = shared_span(config, rank.ffn)
            assert start < stop


def test_thirty_six_heads_over_eight_ranks() -> None:
    config = replace(SMOLLM2, heads=36, kv_heads=36)
    cut = cut_width(config, [1.0] * 8)
    heads = [width.kv_heads[1] - width.kv_heads[0] for width in cut]
    assert heads == [5, 5, 5, 5, 4, 4, 4, 4]
    assert explain_heads(config, heads) is None


def test_groups_of_query_heads_stay_together_and_it_is_said() -> None:
    cut = cut_width(SMOLLM2, [1.0, 1.0])
    heads = [width.kv_heads[1] - width.kv_heads[0] for width in cut]
    assert heads == [2, 1]
    said = explain_heads(SMOLLM2, heads)
    assert said is not None
    assert said.startswith("9 query heads go over 2 ranks as [6, 3], not [5, 4]: each 3 read one")
    assert explain_heads(SMOLLM2, [1, 1, 1]) is None


def test_twice_the_weight_is_twice_the_width() -> None:
    config = replace(with_experts(SMOLLM2, 12), heads=27, kv_heads=9)
    fast, slow = cut_width(config, [2.0, 1.0])
    assert (fast.kv_heads, slow.kv_heads) == ((0, 6), (6, 9))
    assert (fast.ffn, slow.ffn) == ((0, 1024), (1024, 1536))
    assert (len(fast.experts), len(slow.experts)) == (8, 4)
    assert (fast.vocabulary, slow.vocabulary) == ((0, 32768), (32768, 49152)) or (
        config.tie_embeddings and fast.vocabulary == (0, 24576)
    )


@pytest.mark.parametrize(
    ("config", "gang", "what"),
    [
        (SMOLLM2, 4, "3 key-value heads"),
        (with_experts(SMOLLM2, 2), 3, "2 experts"),
        (replace(SMOLLM2, ffn_size=1), 2, "1 feed-forward columns"),
        (replace(SMOLLM2, vocab_size=2), 3, "2 rows of the vocabulary"),
        (
            replace(SMOLLM2, moe=MoeConfig(8, 2, 9, shared_size=2)),
            3,
            "2 columns of the shared expert",
        ),
    ],
)
def test_a_gang_wider_than_the_model_is_refused(config: ModelConfig, gang: int, what: str) -> None:
    assert widest(config) == gang - 1
    check_width(config, gang - 1)
    limit = int(what.split()[0])
    message = f"gang of {gang} ranks but the model has {what}.* lower plan.gang to {limit}"
    with pytest.raises(PlanError, match=message):
        check_width(config, gang)


def test_fine_experts_go_over_as_many_ranks_as_there_are_heads() -> None:
    assert widest(FINE) == 3
    assert widest(replace(FINE, kv_heads=36, heads=36)) == 16


def test_the_example_of_a_rank_twice_as_fast() -> None:
    config = with_experts(SMOLLM2, 8)
    fast, slow = cut_width(config, (2.0, 1.0))
    assert (fast.kv_heads, slow.kv_heads) == ((0, 2), (2, 3))
    assert config.heads_per_kv == 3
    assert (fast.ffn, slow.ffn) == ((0, 1024), (1024, 1536))
    assert (len(fast.experts), len(slow.experts)) == (5, 3)
    assert (fast.vocabulary, slow.vocabulary) == ((0, 24576), (24576, 49152))
