"""The architecture of a DeepSeek v1 model for transformers (version 5)."""

# mypy: disallow-untyped-calls=False
from typing import ClassVar

from transformers import MistralConfig


class DeepseekConfig(MistralConfig):
    """The keys of the published format, and what ``modeling_raymoe`` asks, told from them.

    ``aux_loss_alpha`` and ``seq_aux`` say how the model was balanced in training; no balance loss
    is computed here.
    """

    model_type = "deepseek"
    default_theta = 10000.0
    attribute_map: ClassVar[dict[str, str]] = {}

    sliding_window: int | None = None
    attention_bias: bool = False
    n_routed_experts: int = 64
    n_shared_experts: int | None = None
    num_experts_per_tok: int = 6
    moe_intermediate_size: int = 1408
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    norm_topk_prob: bool = False
    scoring_func: str = "softmax"
    aux_loss_alpha: float | int = 0.001
    seq_aux: bool = True

    mlp_bias: ClassVar[bool] = False
    query_key_norm: ClassVar[None] = None
    softmax_after: ClassVar[bool] = False
    routed_scaling_factor: ClassVar[float] = 1.0
    gate_norm: ClassVar[None] = None
    balance_bias: ClassVar[bool] = False
    n_group: ClassVar[int] = 1
    hashed: ClassVar[bool] = False
    segment_tokens: ClassVar[int | None] = None
    shared_gate: ClassVar[bool] = False

    def __post_init__(self, **kwargs: object) -> None:
        """The published code renormalises only where there is more than one weight."""
        self.norm_topk_prob = self.norm_topk_prob and self.num_experts_per_tok > 1
        super().__post_init__(**kwargs)

    @property
    def output_bias(self) -> bool:
        """One key gives the biases of all four attention projections."""
        return self.attention_bias

    @property
    def dense_layers(self) -> list[int]:
        """Numbers of the layers without experts."""
        first, every = self.first_k_dense_replace, self.moe_layer_freq
        return [n for n in range(self.num_hidden_layers) if n < first or n % every]

    @property
    def shared_expert_intermediate_size(self) -> int:
        """Shared experts are stored as one wide one."""
        return (self.n_shared_experts or 0) * self.moe_intermediate_size
