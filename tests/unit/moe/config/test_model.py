"""The architecture value: what it derives and what it refuses."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from moe.config.model import MoeConfig
from moe.config.share import whole
from moe.errors import ConfigError
from tests.plans import SMOLLM2, with_experts


def test_experts_are_those_of_the_moe_half() -> None:
    assert SMOLLM2.experts == 0
    upcycled = with_experts(SMOLLM2, 8)
    assert upcycled.experts == 8
    assert upcycled.family == "mixtral"
    assert upcycled.hidden_size == SMOLLM2.hidden_size
    assert SMOLLM2.moe is None


def test_query_heads_share_key_value_heads() -> None:
    assert SMOLLM2.heads_per_kv == 3


def test_summary_is_what_a_plan_must_agree_on() -> None:
    assert with_experts(SMOLLM2, 8).summary() == {
        "layers": 30,
        "hidden_size": 576,
        "heads": 9,
        "kv_heads": 3,
        "ffn_size": 1536,
        "experts": 8,
        "shared_size": 0,
        "vocab_size": 49152,
    }


def test_values_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        SMOLLM2.layers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 2}, "9 attention heads cannot share 2 key-value heads"),
        ({"head_size": 63}, "head size 63 is odd"),
        ({"head_size": 0}, "head size 0 is odd or 0"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMOLLM2, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 5}, "top-k is 5 but there are 4 experts"),
        ({"top_k": 0}, "top-k is 0 but there are 4 experts"),
        ({"gate_norm": 0.0}, "gate norm is 0.0; it must be greater than 0 and finite"),
        ({"gate_norm": float("nan")}, "gate norm is nan; it must be greater than 0 and finite"),
        ({"gate_norm": float("inf")}, "gate norm is inf; it must be greater than 0 and finite"),
    ],
)
def test_impossible_experts_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(MoeConfig(experts=4, top_k=2, expert_size=8), **changes)


def test_the_whole_share_holds_everything() -> None:
    share = whole(with_experts(SMOLLM2, 2))
    assert share.layer_numbers == tuple(range(30))
    assert (share.kv_heads, share.ffn, share.experts) == ((0, 3), (0, 1536), (0, 1))
    assert share.embedding
    assert share.head
    assert share.leader
