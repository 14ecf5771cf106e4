"""The architecture of a raymoe model for transformers (version 5)."""

# mypy: disallow-untyped-calls=False
from typing import ClassVar

from transformers import MistralConfig


class RaymoeConfig(MistralConfig):
    """Mistral's sizes, and every option of attention and routing.

    Names are DeepSeek's where it has one. ``intermediate_size`` is the width of the feed-forward in
    ``dense_layers``; ``shared_expert_intermediate_size`` 0 means no shared expert. What the options
    of routing compute stands in ``experts_raymoe``. There is no tensor-parallel plan: Mistral's
    would cut through a norm over all heads.
    """

    model_type = "raymoe"
    default_theta = 10000.0
    attribute_map: ClassVar[dict[str, str]] = {}
    base_model_tp_plan: ClassVar[dict[str, str]] = {}

    sliding_window: int | None = None
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: str | None = None

    n_routed_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 14336
    dense_layers: list[int] | tuple[int, ...] = ()
    shared_expert_intermediate_size: int = 0
    shared_gate: bool = False

    scoring_func: str = "softmax"
    softmax_after: bool = False
    norm_topk_prob: bool = True
    routed_scaling_factor: float | int = 1.0
    gate_norm: float | int | None = None
    balance_bias: bool = False
    n_group: int = 1
    topk_group: int = 1
    group_best: int = 2
    hashed: bool = False
    segment_tokens: int | None = None
    first_segment: str = "even"
