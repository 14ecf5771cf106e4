"""raymoe: our own format, for options that the other formats cannot express. It holds every option.

Keys and tensors have DeepSeek's names if DeepSeek has one. Keys that change the numbers and have no
neutral value are required; any other omitted key is off. Dense models use the other formats.
"""

from collections.abc import Collection
from dataclasses import fields
from typing import Any, get_args

from moe.config.families.decoder import read_decoder, read_window
from moe.config.model import FirstSegment, ModelConfig, MoeConfig, QueryKeyNorm, Score
from moe.config.values import Table, count, flag, number
from moe.errors import ConfigError

HOLDS = frozenset(option.name for part in (ModelConfig, MoeConfig) for option in fields(part))


def read_raymoe(table: Table) -> ModelConfig:
    """Return the architecture."""
    return read_decoder(
        table,
        family="raymoe",
        attention_bias=flag(table, "attention_bias"),
        output_bias=flag(table, "output_bias"),
        mlp_bias=flag(table, "mlp_bias"),
        query_key_norm=_choice(table, "query_key_norm", (None, *get_args(QueryKeyNorm))),
        sliding_window=read_window(table),
        moe=_read_experts(table),
    )


def raymoe_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    moe = config.moe
    assert moe is not None
    return {
        "architectures": ["RaymoeForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_raymoe.RaymoeConfig",
            "AutoModelForCausalLM": "modeling_raymoe.RaymoeForCausalLM",
        },
        "attention_bias": config.attention_bias,
        "output_bias": config.output_bias,
        "mlp_bias": config.mlp_bias,
        "query_key_norm": config.query_key_norm,
        "sliding_window": config.sliding_window,
        "n_routed_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.expert_size,
        "dense_layers": list(moe.dense_layers),
        "shared_expert_intermediate_size": moe.shared_size,
        "shared_gate": moe.shared_gate,
        "scoring_func": moe.score,
        "softmax_after": moe.softmax_after,
        "norm_topk_prob": moe.renormalise,
        "routed_scaling_factor": moe.scale,
        "gate_norm": moe.gate_norm,
        "balance_bias": moe.balance_bias,
        "n_group": moe.groups,
        "topk_group": moe.top_groups,
        "group_best": moe.group_best,
        "hashed": moe.hashed,
        **_segments(moe),
    }


def _read_experts(table: Table) -> MoeConfig:
    return MoeConfig(
        experts=count(table, "n_routed_experts"),
        top_k=count(table, "num_experts_per_tok"),
        expert_size=count(table, "moe_intermediate_size"),
        gate_norm=None if table.get("gate_norm") is None else number(table, "gate_norm"),
        renormalise=_choice(table, "norm_topk_prob", (True, False)),
        score=_choice(table, "scoring_func", get_args(Score)),
        softmax_after=flag(table, "softmax_after"),
        scale=number(table, "routed_scaling_factor", 1.0),
        balance_bias=flag(table, "balance_bias"),
        groups=count(table, "n_group", 1),
        top_groups=count(table, "topk_group", 1),
        group_best=count(table, "group_best", 2),
        hashed=flag(table, "hashed"),
        segment_tokens=_segment(table),
        first_segment=_first_segment(table),
        dense_layers=_layers(table),
        shared_size=count(table, "shared_expert_intermediate_size", 0, zero=True),
        shared_gate=flag(table, "shared_gate"),
    )


def _segments(moe: MoeConfig) -> Table:
    """Return the keys of experts that are merged for segments; none of others, as before them."""
    if moe.segment_tokens is None:
        return {}
    return {"segment_tokens": moe.segment_tokens, "first_segment": moe.first_segment}


def _segment(table: Table) -> int | None:
    return None if table.get("segment_tokens") is None else count(table, "segment_tokens")


def _first_segment(table: Table) -> Any:
    """Return how the first segment is routed; a model with segments has to say it."""
    if table.get("segment_tokens") is None and table.get("first_segment") is None:
        return "even"
    return _choice(table, "first_segment", get_args(FirstSegment))


def _layers(table: Table) -> tuple[int, ...]:
    found = table.get("dense_layers") or []
    if not isinstance(found, list) or any(type(number) is not int for number in found):
        raise ConfigError(
            f"config.json has dense_layers = {found!r}; expected a list of layer numbers"
        )
    return tuple(found)


def _choice(table: Table, key: str, choices: Collection[Any]) -> Any:
    """Return one of a few values; the key may be omitted if None is one of them."""
    found = table.get(key) if None in choices else table[key]
    if not any(type(found) is type(choice) and found == choice for choice in choices):
        raise ConfigError(
            f"config.json has {key} = {found!r}; choose {' or '.join(map(repr, choices))}"
        )
    return found
