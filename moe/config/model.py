"""The architecture of one model, independent of its Hugging Face family.

A Llama-style decoder: RMSNorm, rotary grouped-query attention, SwiGLU; each block carries either a
dense feed-forward or a mixture of experts. Routing covers Skywork-MoE section 4.1 (gating-logit
normalisation), DeepSeekMoE section 3 (shared and fine-grained experts, raw softmax weights) and
options of later models: sigmoid scores, a balance bias, groups of experts. Lory (arXiv 2405.03133)
routes segments in place of tokens and merges the experts for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal, get_args

from moe.config.moe_checks import check_groups, check_hashed, check_segments
from moe.config.tuning import Tuning
from moe.errors import ConfigError

Score = Literal["softmax", "sigmoid"]
QueryKeyNorm = Literal["head", "all"]
FirstSegment = Literal["even", "own"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are scaled: ``linear`` by a factor, or ``llama3`` by wavelength."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """The MoE part of an architecture.

    Scores are the softmax over all experts, or the sigmoid of each logit. ``gate_norm`` is lambda
    of Skywork-MoE section 4.1: gate logits of every token are first normalised to this standard
    deviation; None leaves them unchanged. ``softmax_after`` chooses by logits and takes the softmax
    over the chosen experts. ``renormalise`` makes the chosen scores of a token sum to one;
    ``scale`` then multiplies them. ``balance_bias`` adds a bias per expert to the scores, only for
    the choice; the bias has no gradient. With ``groups``, a token can only reach experts of its
    best ``top_groups`` groups; the score of a group is the sum of its ``group_best`` best experts.

    ``dense_layers`` keep a feed-forward of ``ffn_size``. ``shared_size`` is the width of the shared
    expert, which all tokens use (several shared experts are stored as one wide expert); with
    ``shared_gate``, a sigmoid of the token weighs its output. ``hashed`` routes a token by a hash
    of its number.

    With ``segment_tokens``, experts are merged: the tokens of a segment of that length pass one
    feed-forward, whose weights are the experts' weights summed by the routing of the segment before
    (``moe.nn.segments``). The ``first_segment`` has none before it: all experts weigh ``even``, or
    it is routed by its ``own`` tokens, also by those that come after a position.
    """

    experts: int
    top_k: int
    expert_size: int
    gate_norm: float | None = None
    renormalise: bool = True
    score: Score = "softmax"
    softmax_after: bool = False
    scale: float = 1.0
    balance_bias: bool = False
    groups: int = 1
    top_groups: int = 1
    group_best: int = 2
    hashed: bool = False
    segment_tokens: int | None = None
    first_segment: FirstSegment = "even"
    dense_layers: tuple[int, ...] = ()
    shared_size: int = 0
    shared_gate: bool = False

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
        if not 0 < self.scale < inf:
            raise ConfigError(f"scale is {self.scale}; it must be greater than 0 and finite")
        self._check_word("score", get_args(Score))
        self._check_word("first_segment", get_args(FirstSegment))
        if self.softmax_after and self.score != "softmax":
            raise ConfigError("softmax_after needs the softmax score; the score is a sigmoid")
        if self.expert_size < 1 or self.shared_size < 0:
            raise ConfigError(
                f"expert_size is {self.expert_size} and shared_size is {self.shared_size}; the "
                "first must be at least 1, the second not negative"
            )
        if self.shared_gate and not self.shared_size:
            raise ConfigError("shared_gate is set but there is no shared expert; give shared_size")
        check_groups(self)
        if self.hashed:
            check_hashed(self)
        if self.segment_tokens is not None or self.first_segment != "even":
            check_segments(self)

    @property
    def merged(self) -> bool:
        """Whether the experts are merged for segments of tokens."""
        return self.segment_tokens is not None

    @property
    def gated(self) -> bool:
        """Whether a gate sends each token to experts."""
        return not (self.hashed or self.merged)

    @property
    def spoken(self) -> str:
        """How many experts there are and who uses them, in a few words."""
        if self.merged:
            return f"{self.experts} experts merged for {self.segment_tokens} tokens"
        return f"{self.experts} experts top-{self.top_k}"

    @property
    def sums_to_one(self) -> bool:
        """Whether the weights of a token's experts sum to one, before ``scale``."""
        return self.renormalise or self.softmax_after

    def _check_word(self, key: str, words: Sequence[str]) -> None:
        if getattr(self, key) not in words:
            raise ConfigError(f"{key} is {getattr(self, key)!r}; choose {' or '.join(words)}")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and switches of one decoder. ``moe`` None means every block is dense.

    ``attention_bias`` adds biases to queries, keys and values, ``output_bias`` to the output
    projection. ``query_key_norm`` normalises queries and keys to unit mean square before rotation:
    each ``head`` separately, or ``all`` heads together. ``sliding_window`` is the number of
    positions to which a token attends, including itself; None: all previous positions. ``tuning``
    is no part of the model: it says what of it a run trains.
    """

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
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: QueryKeyNorm | None = None
    sliding_window: int | None = None
    rope_scaling: RopeScaling | None = None
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    moe: MoeConfig | None = None
    tuning: Tuning | None = None

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
        if self.moe is not None:
            self._check_dense_layers(self.moe.dense_layers)
            if self.moe.merged and self.moe.expert_size != self.ffn_size:
                raise ConfigError(
                    f"merged experts are {self.moe.expert_size} wide and a feed-forward "
                    f"{self.ffn_size}; both are cut by the same columns, so give expert_size = "
                    "ffn_size"
                )

    @property
    def heads_per_kv(self) -> int:
        """Number of query heads that share one key-value head."""
        return self.heads // self.kv_heads

    @property
    def experts(self) -> int:
        """Number of experts in each MoE block; 0 for a dense model."""
        return self.moe.experts if self.moe else 0

    @property
    def placed_experts(self) -> int:
        """Number of experts in each MoE block that are placed on ranks, each on one; merged experts
        are cut by columns, and every rank has its columns of all of them.
        """
        return 0 if self.moe is None or self.moe.merged else self.moe.experts

    @property
    def shared_size(self) -> int:
        """Width of the shared expert in each MoE block; 0 if there is none."""
        return self.moe.shared_size if self.moe else 0

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Numbers of the layers with experts."""
        return tuple(layer for layer in range(self.layers) if self.has_experts(layer))

    def has_experts(self, layer: int) -> bool:
        """Return whether a layer is a mixture of experts."""
        return self.moe is not None and layer not in self.moe.dense_layers

    def with_moe(self, moe: MoeConfig, family: str) -> "ModelConfig":
        """Return the same decoder with experts in place of every feed-forward."""
        return replace(self, moe=moe, family=family)

    def summary(self) -> Mapping[str, int]:
        """Return the sizes on which a plan and a model must agree."""
        return {
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "ffn_size": self.ffn_size,
            "experts": self.placed_experts,
            "shared_size": self.shared_size,
            "vocab_size": self.vocab_size,
        }

    def _check_dense_layers(self, dense: tuple[int, ...]) -> None:
        known = sorted(set(dense)) == list(dense) and all(0 <= n < self.layers for n in dense)
        if not known or len(dense) == self.layers:
            raise ConfigError(
                f"dense layers are {list(dense)} of {self.layers}; give rising layer numbers and "
                "leave at least one layer with experts"
            )
