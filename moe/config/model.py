"""The architecture of one model, independent of the family that wrote it down.

A Llama-style decoder: RMSNorm, rotary grouped-query attention, SwiGLU; each block carries either a
dense feed-forward or a mixture of experts. Routing follows Skywork-MoE section 4.1 (gating-logit
normalisation) and the usual softmax, top-k, renormalise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from moe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched: ``linear`` by a factor, or ``llama3`` by wavelength."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """The expert half of an architecture.

    ``gate_norm`` is lambda of Skywork-MoE section 4.1: the standard deviation every token's gate
    logits are brought to before the softmax; None leaves them as they are.
    """

    experts: int
    top_k: int
    expert_size: int
    gate_norm: float | None = None
    renormalise: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise ConfigError(
                f"top-k is {self.top_k} but there are {self.experts} experts; "
                "choose 1 <= top-k <= experts"
            )
        if self.gate_norm is not None and not 0 < self.gate_norm < inf:
            raise ConfigError(
                f"gate norm is {self.gate_norm}; it must be greater than 0 and finite"
            )


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and switches of one decoder. ``moe`` None means every block is dense."""

    family: str
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    ffn_size: int
    norm_eps: float
    rope_theta: float
    max_positions: int
    tie_embeddings: bool
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: RopeScaling | None = None
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    moe: MoeConfig | None = None

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"{self.heads} attention heads cannot share {self.kv_heads} key-value heads; "
                "the first must be a multiple of the second"
            )
        if self.head_size < 2 or self.head_size % 2:
            raise ConfigError(
                f"head size {self.head_size} is odd or 0; rotary embedding needs pairs"
            )

    @property
    def heads_per_kv(self) -> int:
        """Query heads that share one key-value head."""
        return self.heads // self.kv_heads

    @property
    def experts(self) -> int:
        """Experts of each block; 0 for a dense model."""
        return self.moe.experts if self.moe else 0

    def with_moe(self, moe: MoeConfig, family: str) -> "ModelConfig":
        """Return the same decoder with experts in place of every feed-forward."""
        return replace(self, moe=moe, family=family)

    def summary(self) -> Mapping[str, int]:
        """Return the sizes a plan or a checkpoint must agree on."""
        return {
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "ffn_size": self.ffn_size,
            "experts": self.experts,
            "vocab_size": self.vocab_size,
        }
