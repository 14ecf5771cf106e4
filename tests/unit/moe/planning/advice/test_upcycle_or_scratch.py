"""The advice against what Skywork-MoE measured, its own run, and published counts of FLOPs."""

from dataclasses import replace
from math import inf, isclose, nan
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moe.config.model import ModelConfig, MoeConfig
from moe.config.presets import preset
from moe.config.tensors import active_parameters, parameters
from moe.errors import PlanError
from moe.planning.advice.upcycle_or_scratch import Advice, Fleet, Terms, advise_budget

BILLION = 1e9
DENSE = ModelConfig(
    family="llama",
    vocab_size=32000,
    hidden_size=1024,
    layers=24,
    heads=16,
    kv_heads=4,
    head_size=64,
    ffn_size=3072,
    norm_eps=1e-6,
    rope_theta=1e4,
    max_positions=2048,
    tie_embeddings=True,
)
MOE = DENSE.with_moe(MoeConfig(8, 2, DENSE.ffn_size), "mixtral")
SKYWORK, SKYWORK_MOE = preset("skywork-13b").config, preset("skywork-moe-146b").config
ORDER = ("upcycle", "borderline", "scratch")
TOKENS = st.floats(1e6, 1e14)


def study(moe_billions: float, dense_billions: float = 300.0, **terms: Any) -> Advice:
    """Return the advice for the study's models: 0.3B, and 8 experts of it with top-2."""
    return advise_budget(
        DENSE, MOE, dense_billions * BILLION, moe_billions * BILLION, Terms(**terms)
    )


def test_the_models_are_those_of_the_study() -> None:
    assert parameters(DENSE) == pytest.approx(0.3e9, rel=0.1)
    assert active_parameters(MOE) / active_parameters(DENSE) == pytest.approx(1.7, rel=0.01)


@pytest.mark.parametrize(
    ("dense_billions", "moe_billions", "ratio", "verdict"),
    [
        (300, 100, 2 / 3, "borderline"),  # lost to scratch at a tiny learning rate
        (100, 100, 2, "scratch"),  # 2.259 against 2.264: level
        (300, 300, 2, "scratch"),  # 2.232 against 2.200
        (100, 300, 6, "scratch"),  # 2.233 against 2.200
        (300, 10, 1 / 15, "upcycle"),
    ],
)
def test_the_runs_of_the_study(
    dense_billions: float, moe_billions: float, ratio: float, verdict: str
) -> None:
    advice = study(moe_billions, dense_billions)
    assert advice.ratio == pytest.approx(ratio, rel=0.05)
    assert advice.verdict == verdict
    assert any("figure 1" in reason or "2/3" in reason for reason in advice.reasons)


def test_skywork_moe_itself_was_upcycled() -> None:
    advice = advise_budget(SKYWORK, SKYWORK_MOE, 5.2e12, 1e12)
    assert advice.verdict == "upcycle"
    assert advice.ratio == pytest.approx(1.2 * 22.69 / 13.85 / 5.2, rel=1e-3)
    upcycle, scratch = advice.break_even_tokens
    assert upcycle == pytest.approx(1.32e12, rel=0.01)
    assert scratch == pytest.approx(4 * upcycle)
    assert advice.watch


def test_flops_are_those_of_the_report() -> None:
    """690 tokens a second of a GPU are 110 TFLOP/s there, with attention over 8192 tokens."""
    fleet = Fleet(1536 * 110e12, devices=1536)
    terms = Terms(sequence_length=8192, communication=1.0)
    advice = advise_budget(SKYWORK, SKYWORK_MOE, 5.2e12, 1e12, terms, fleet)
    assert advice.moe.flops / 1e12 * 690 == pytest.approx(110e12, rel=0.01)
    assert advice.moe.device_hours is not None
    assert 1e12 / (advice.moe.device_hours * 3600) == pytest.approx(690, rel=0.01)


@pytest.mark.parametrize(
    ("name", "published"),
    [("deepseek-moe-145b", 585.6e12), ("gshard-137b", 572.7e12), ("deepseek-moe-16b", 74.4e12)],
)
def test_flops_are_near_those_deepseek_published(name: str, published: float) -> None:
    """DeepSeekMoE tables 3 and 6, for 4096 tokens; they leave the embedding out, 6 A does not."""
    config = preset(name).config
    advice = advise_budget(None, config, 0, 4096, Terms(sequence_length=4096))
    assert advice.moe.flops == pytest.approx(published, rel=0.1)


def test_communication_is_time_and_not_flops() -> None:
    fleet = Fleet(1e15, devices=4)
    plain, slow = (
        advise_budget(DENSE, MOE, 3e11, 1e11, Terms(communication=factor), fleet)
        for factor in (1.0, 1.5)
    )
    assert slow.moe.flops == plain.moe.flops
    assert slow.ratio == pytest.approx(1.5 * plain.ratio)
    assert slow.moe.device_hours == pytest.approx(1.5 * (plain.moe.device_hours or 0))
    assert slow.dense == plain.dense
    assert plain.dense is not None
    assert plain.dense.device_hours == pytest.approx(plain.dense.flops / 1e15 / 3600 * 4)
    assert study(100).moe.device_hours is None


@pytest.mark.parametrize("dense", [None, DENSE])
def test_without_a_dense_model_from_scratch(dense: ModelConfig | None) -> None:
    advice = advise_budget(dense, MOE, 0, 1e11)
    assert (advice.verdict, advice.ratio, advice.dense) == ("scratch", inf, None)
    assert advice.break_even_tokens == (0.0, 0.0)
    assert "never train one only to upcycle it" in advice.reasons[0]


def test_a_dense_model_is_not_trained_only_to_upcycle_it() -> None:
    sunk, cumulative = study(10), study(10, dense_trained=False)
    assert (sunk.verdict, cumulative.verdict) == ("upcycle", "scratch")
    assert sunk.ratio == cumulative.ratio
    assert "are sunk" in sunk.reasons[-1]
    assert "Nothing is sunk" in cumulative.reasons[-1]
    assert cumulative.break_even_tokens == (0.0, 0.0)
    assert sunk.scratch_tokens == pytest.approx(10 * BILLION * (1 + 1 / sunk.ratio))


def test_weights_that_do_not_fit_cannot_be_upcycled() -> None:
    advice = advise_budget(replace(DENSE, layers=12), MOE, 3e11, 1e9)
    assert advice.verdict == "scratch"
    assert "layers 12 against 24" in advice.reasons[0]


def test_experts_of_another_width_are_still_made_of_the_dense_model() -> None:
    fine = DENSE.with_moe(MoeConfig(32, 8, DENSE.ffn_size // 4, shared_size=768), "deepseek")
    assert advise_budget(DENSE, fine, 3e11, 1e9).verdict == "upcycle"


def test_the_limits_are_the_callers() -> None:
    assert study(100, much_less=0.7).verdict == "upcycle"
    assert study(100, much_less=0.1, scratch_from=0.6).verdict == "scratch"


@given(TOKENS, TOKENS, TOKENS)
def test_more_moe_tokens_never_speak_for_upcycling(dense: float, one: float, two: float) -> None:
    fewer, more = sorted((one, two))
    verdicts = [advise_budget(DENSE, MOE, dense, tokens).verdict for tokens in (fewer, more)]
    assert ORDER.index(verdicts[0]) <= ORDER.index(verdicts[1])


@given(TOKENS, TOKENS, TOKENS)
def test_more_dense_tokens_never_speak_for_scratch(moe: float, one: float, two: float) -> None:
    fewer, more = sorted((one, two))
    verdicts = [advise_budget(DENSE, MOE, tokens, moe).verdict for tokens in (fewer, more)]
    assert ORDER.index(verdicts[0]) >= ORDER.index(verdicts[1])


@given(TOKENS, TOKENS, st.floats(0.05, 3), st.floats(0.05, 3), st.floats(1, 3))
def test_the_verdict_turns_at_the_break_even_tokens(
    dense: float, moe: float, one: float, two: float, communication: float
) -> None:
    assume(not isclose(one, two, rel_tol=1e-6))
    terms = Terms(communication, min(one, two), max(one, two))
    limits = advise_budget(DENSE, MOE, dense, moe, terms).break_even_tokens
    for limit, below, above in zip(limits, ORDER, ORDER[1:], strict=False):
        assert advise_budget(DENSE, MOE, dense, limit * (1 - 1e-7), terms).verdict == below
        assert advise_budget(DENSE, MOE, dense, limit * (1 + 1e-7), terms).verdict == above


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((DENSE, DENSE, 1e9, 1e9), "has no experts"),
        ((MOE, MOE, 1e9, 1e9), "the dense model has experts"),
        ((DENSE, MOE, 1e9, 0), "would train on 0 tokens"),
        ((DENSE, MOE, 1e9, nan), "would train on nan tokens"),
        ((DENSE, MOE, -1, 1e9), "has seen -1 tokens"),
        ((DENSE, MOE, inf, 1e9), "has seen inf tokens"),
        ((None, MOE, 1e9, 1e9), "has seen 1B tokens but its configuration"),
    ],
)
def test_what_cannot_be_weighed(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        advise_budget(*arguments)


@pytest.mark.parametrize(
    "terms",
    [
        {"communication": 0},
        {"communication": nan},
        {"much_less": 2.0},
        {"much_less": 0},
        {"scratch_from": inf},
        {"sequence_length": 0},
    ],
)
def test_terms_without_sense(terms: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        Terms(**terms)


@pytest.mark.parametrize("fleet", [(0.0, 1), (inf, 1), (1e12, 0)])
def test_a_fleet_that_trains_nothing(fleet: tuple[float, int]) -> None:
    with pytest.raises(PlanError, match=r"trains? nothing"):
        Fleet(*fleet)
