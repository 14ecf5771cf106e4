"""A decoder with a mixture of experts, for transformers (version 5): Mistral's loop, our blocks.

What the experts compute stands in ``experts_raymoe``.
"""

# mypy: disallow-untyped-calls=False
# ruff: noqa: RUF012
from typing import Any

from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.mistral.modeling_mistral import (
    MistralAttention,
    MistralForCausalLM,
    MistralModel,
    MistralRMSNorm,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from .configuration_raymoe import RaymoeConfig
from .experts_raymoe import RaymoeFeedForward, RaymoeGate, RaymoeMergedMixture, RaymoeMixture


class RaymoeAttention(MistralAttention):
    """Mistral's attention, with biases, and with queries and keys normalised before rotation.

    The norm is over each head (``head``, Qwen3) or over all heads together (``all``, OLMoE).
    """

    def __init__(self, config: RaymoeConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        hidden_size, head_size = config.hidden_size, self.head_dim
        queries = config.num_attention_heads * head_size
        keys = config.num_key_value_heads * head_size
        self.q_proj = nn.Linear(hidden_size, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(hidden_size, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(hidden_size, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, hidden_size, bias=config.output_bias)
        self.norm_heads = config.query_key_norm == "head"
        if config.query_key_norm is not None:
            sizes = (head_size, head_size) if self.norm_heads else (queries, keys)
            self.q_norm = MistralRMSNorm(sizes[0], config.rms_norm_eps)
            self.k_norm = MistralRMSNorm(sizes[1], config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output and, where the implementation has them, the attention weights."""
        queries = self._heads(self.q_proj(hidden_states), getattr(self, "q_norm", None))
        keys = self._heads(self.k_proj(hidden_states), getattr(self, "k_norm", None))
        values = self._heads(self.v_proj(hidden_states), None)
        queries, keys = apply_rotary_pos_emb(queries, keys, *position_embeddings)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, weights = attend(
            self,
            queries,
            keys,
            values,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.config.sliding_window,
            **kwargs,
        )
        return self.o_proj(mixed.flatten(2)), weights

    def _heads(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        if norm is not None and not self.norm_heads:
            x = norm(x)
        x = x.unflatten(-1, (-1, self.head_dim))
        if norm is not None and self.norm_heads:
            x = norm(x)
        return x.transpose(1, 2)


class RaymoeDecoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each after a norm and added to the residual stream."""

    def __init__(self, config: RaymoeConfig, layer_idx: int) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        self.input_layernorm = MistralRMSNorm(hidden_size, config.rms_norm_eps)
        self.self_attn = RaymoeAttention(config, layer_idx)
        self.post_attention_layernorm = MistralRMSNorm(hidden_size, config.rms_norm_eps)
        self.mlp: RaymoeFeedForward | RaymoeMixture | RaymoeMergedMixture
        if layer_idx in config.dense_layers:
            self.mlp = RaymoeFeedForward(hidden_size, config.intermediate_size, config.mlp_bias)
        elif config.segment_tokens is not None:
            self.mlp = RaymoeMergedMixture(config, layer_idx)
        else:
            self.mlp = RaymoeMixture(config, layer_idx)

    def forward(
        self, hidden_states: Tensor, token_numbers: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Apply the block; ``token_numbers`` are what a hash layer routes by."""
        mixed, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + mixed
        normed = self.post_attention_layernorm(hidden_states)
        if isinstance(self.mlp, RaymoeMixture):
            y: Tensor = self.mlp(normed, token_numbers)
        elif isinstance(self.mlp, RaymoeMergedMixture):
            y = self.mlp(normed, routed_by_prompt(kwargs.get("past_key_values")))
        else:
            y = self.mlp(normed)
        return hidden_states + y


def routed_by_prompt(cache: Any) -> dict[int, Tensor] | None:
    """Return what a cache keeps for merged experts by layer; None without a cache."""
    if cache is None:
        return None
    if not hasattr(cache, "routed_by_prompt"):
        cache.routed_by_prompt = {}
    found: dict[int, Tensor] = cache.routed_by_prompt
    return found


class RaymoeModel(MistralModel):
    """The trunk: Mistral's with the blocks above."""

    config_class: Any = RaymoeConfig
    _no_split_modules = ["RaymoeDecoderLayer"]
    _keep_in_fp32_modules_strict = ["e_score_correction_bias"]
    _can_record_outputs = {
        "hidden_states": RaymoeDecoderLayer,
        "attentions": RaymoeAttention,
    }

    def __init__(self, config: RaymoeConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(
            RaymoeDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.post_init()

    def forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """Run Mistral's loop; every block is told the token numbers."""
        mask = kwargs.get("attention_mask")
        if self.config.segment_tokens is not None and mask is not None and not mask.all():
            raise ValueError(
                "segments are counted from the first token of a sequence: give sequences of one "
                "length, without padding"
            )
        return super().forward(input_ids=input_ids, token_numbers=input_ids, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RaymoeGate):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.config.balance_bias:
                init.zeros_(module.e_score_correction_bias)


class RaymoeForCausalLM(MistralForCausalLM):
    """The trunk and the output matrix."""

    config_class: Any = RaymoeConfig
    _no_split_modules = RaymoeModel._no_split_modules
    _keep_in_fp32_modules_strict = RaymoeModel._keep_in_fp32_modules_strict
    _can_record_outputs = RaymoeModel._can_record_outputs

    def __init__(self, config: RaymoeConfig) -> None:
        super().__init__(config)
        self.model = RaymoeModel(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        self.model._init_weights(module)
