"""A run on a model: options without effect on it are refused, what learns little is told."""

from dataclasses import replace
from typing import Any

import pytest

from moe.config.model import ModelConfig, MoeConfig
from moe.config.run import RunConfig, parse_run
from moe.config.run.cautions import model_cautions
from moe.errors import ConfigError
from tests import plans

MINIMAL: dict[str, Any] = {
    "name": "demo",
    "model": {"path": "model"},
    "data": {"path": "data"},
    "train": {"steps": 10, "global_batch": 8, "learning_rate": 1e-3},
    "checkpoint": {"path": "out"},
}
MERGED: dict[str, Any] = {"segment_tokens": 256, "expert_size": plans.SMOLLM2.ffn_size}
FIXED = {"coefficient": {"type": "fixed", "value": 0.1}}
BIAS = {"coefficient": {"type": "bias"}}
FROZEN = (
    'the balance bias does not change: balance.coefficient.type is {}, and only "bias" moves it.'
)
ONE = "the weight of the one expert of a token is always 1, so routers get no gradient"
TWO = "two gate logits normalised to one deviation are always the same two numbers"


def run_of(**sections: dict[str, Any]) -> RunConfig:
    return parse_run(MINIMAL | sections, "run.toml")


def model(**options: Any) -> ModelConfig:
    sizes = {"experts": 4, "top_k": 1, "expert_size": 8} | options
    return replace(plans.SMOLLM2, family="raymoe", moe=MoeConfig(**sizes))


@pytest.mark.parametrize(
    ("options", "sections", "message"),
    [
        (None, {"routing": {"capacity_factor": 1}}, "is a dense model, on which .routing. and"),
        (None, {"balance": {"z_loss": 0.1}}, "is a dense model, on which .routing. and .balance."),
        ({"hashed": True}, {"balance": {"z_loss": 0.1}}, "hashes tokens to experts, on which"),
        ({"hashed": True}, {"balance": {"loss": "switch"}}, "hashes tokens to experts, on which"),
        (
            {"hashed": True},
            {"balance": {"device_loss": 1, "device_groups": 2}},
            "hashes tokens to experts, on which .balance. and",
        ),
        ({"hashed": True}, {"routing": {"choose": "experts"}}, "have no effect; remove them"),
        (
            {"hashed": True},
            {"routing": {"capacity_factor": 1.25, "drop_policy": "position"}},
            "all with equal weights: .* remove routing.drop_policy",
        ),
        (MERGED, {"balance": {"z_loss": 0.1}}, "merges its experts .* have no effect; remove"),
        (MERGED, {"routing": {"capacity_factor": 1.5}}, "merges its experts for segments"),
        (MERGED, {"elastic": {"rebalance_every": 5}}, "has no expert to move; remove it"),
        (MERGED, {"monitor": {"every": 2}}, "monitor.every compares whole experts; remove it"),
        (
            MERGED,
            {"train": MINIMAL["train"] | {"orthogonal": {}}, "elastic": {"copy_every": 0}},
            "train.orthogonal would leave no direction to any; remove it",
        ),
        (
            {"balance_bias": True},
            {"routing": {"choose": "experts"}},
            "has a balance bias on the choice of tokens, which experts that choose do not heed",
        ),
        (
            {},
            {"balance": {"coefficient": {"type": "bias"}}},
            "no balance bias to move; upcycle with a balance bias into the raymoe family",
        ),
        (
            {},
            {"balance": {"device_loss": 1, "device_groups": 5}},
            "balance.device_groups is 5 but model has 4 experts",
        ),
        (
            {"groups": 2, "top_groups": 1},
            {"routing": {"choose": "experts"}},
            "limits a token to 1 of 2 groups of experts, which experts that choose do not heed",
        ),
    ],
)
def test_options_without_effect_on_a_model_are_refused(
    options: dict[str, Any] | None, sections: dict[str, dict[str, Any]], message: str
) -> None:
    run = run_of(**sections)
    with pytest.raises(ConfigError, match=message):
        run.check_model(plans.SMOLLM2 if options is None else model(**options))


@pytest.mark.parametrize(
    ("options", "sections"),
    [
        (None, {}),
        (MERGED, {}),
        ({"hashed": True}, {"routing": {"capacity_factor": 1.25}}),
        ({"balance_bias": True}, {"balance": {"coefficient": {"type": "bias"}}}),
        ({"balance_bias": True}, {}),
        ({}, {"routing": {"choose": "experts"}, "balance": {"z_loss": 0.1}}),
        ({}, {"balance": {"device_loss": 1, "device_groups": 4, "scope": "global-batch"}}),
    ],
)
def test_options_with_an_effect_on_a_model_are_taken(
    options: dict[str, Any] | None, sections: dict[str, dict[str, Any]]
) -> None:
    run = run_of(**sections)
    run.check_model(plans.SMOLLM2 if options is None else model(**options))


@pytest.mark.parametrize(
    ("options", "sections", "told"),
    [
        (None, {}, []),
        ({"hashed": True}, {}, []),
        (MERGED, {}, []),
        ({"top_k": 2}, {}, []),
        ({}, {}, [ONE]),
        ({"renormalise": False}, {}, []),
        ({"renormalise": False, "softmax_after": True}, {}, [ONE]),
        ({}, {"routing": {"choose": "experts"}}, []),
        ({"top_k": 2, "balance_bias": True}, {"balance": BIAS}, []),
        ({"top_k": 2, "balance_bias": True}, {"balance": FIXED}, [FROZEN.format("fixed")]),
        ({"top_k": 2, "balance_bias": True}, {}, [FROZEN.format("adaptive")]),
        ({"top_k": 2, "experts": 3, "gate_norm": 1.0}, {}, []),
        ({"top_k": 2, "experts": 2, "gate_norm": 1.0}, {}, [TWO]),
        ({"experts": 2, "gate_norm": 1.0}, {}, [ONE, TWO]),
    ],
)
def test_what_learns_little_is_told(
    options: dict[str, Any] | None, sections: dict[str, dict[str, Any]], told: list[str]
) -> None:
    found = model_cautions(
        run_of(**sections), plans.SMOLLM2 if options is None else model(**options)
    )
    assert len(found) == len(told)
    assert all(each.startswith(start) for each, start in zip(found, told, strict=True))


@pytest.mark.parametrize(
    ("copy_every", "every", "told"), [(0, 0, True), (0, 10, False), ("auto", 0, False)]
)
def test_a_run_that_keeps_nothing_is_told(copy_every: int | str, every: int, told: bool) -> None:
    run = run_of(elastic={"copy_every": copy_every}, checkpoint={"path": "unused", "every": every})
    found = model_cautions(run, plans.SMOLLM2)
    assert any("back to its beginning" in each for each in found) == told
