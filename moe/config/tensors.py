"""Every tensor of a model by name, shape and role, and the slice of each that a share holds.

Loading, saving, planning and the comparison of plans all read this table. The names are raymoe's
and do not depend on the plan; ``moe.checkpoint.names`` maps them to the names of a family on disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from math import prod

from moe.config.model import ModelConfig, MoeConfig
from moe.config.role import ModelPart, Role
from moe.config.share import Share, shared_span
from moe.config.tuning import tuned

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"

_ATTENTION = frozenset({"query", "key", "value", "query_norm", "key_norm", "output"})


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """One tensor, or a span of it along one dimension.

    ``shape`` is the shape of the full tensor; ``dim`` is None for the full tensor.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    dim: int | None = None
    start: int = 0
    stop: int = 0

    @property
    def held_shape(self) -> tuple[int, ...]:
        """Shape of the held part."""
        return held_shape(self.shape, self.dim, self.start, self.stop)

    @property
    def elements(self) -> int:
        """Number of held elements."""
        return prod(self.held_shape)

    @property
    def whole(self) -> "TensorSlice":
        """The full tensor."""
        return TensorSlice(self.name, self.shape, self.role)

    def span(self, dim: int, start: int, stop: int) -> "TensorSlice":
        """Return ``start`` to ``stop`` along one dimension; the full tensor if the span covers all
        of it.
        """
        if (start, stop) == (0, self.shape[dim]):
            return self.whole
        return TensorSlice(self.name, self.shape, self.role, dim, start, stop)


def held_shape(shape: tuple[int, ...], dim: int | None, start: int, stop: int) -> tuple[int, ...]:
    """Return the shape of a span of a tensor; the full shape if ``dim`` is None."""
    if dim is None:
        return shape
    return (*shape[:dim], stop - start, *shape[dim + 1 :])


def layer_prefix(layer: int) -> str:
    """Return the prefix of every tensor of one layer."""
    return f"model.layers.{layer}."


@lru_cache(maxsize=4)
def tensors(config: ModelConfig) -> tuple[TensorSlice, ...]:
    """Return every tensor of the model as stored on disk; a tied head is not repeated.

    A model that a run tunes has factors beside its weights, and some of these are frozen.
    """
    first, *last = end_tensors(config)
    layers = (layer_tensors(config, layer) for layer in range(config.layers))
    return tuple(tuned(config.tuning, (first, *chain.from_iterable(layers), *last)))


def embedding(config: ModelConfig) -> TensorSlice:
    """Return the embedding of tokens [V, D]."""
    return TensorSlice(EMBEDDING, (config.vocab_size, config.hidden_size), Role("embedding", cut=0))


def end_tensors(config: ModelConfig) -> Iterator[TensorSlice]:
    """Yield the tensors outside layers: embedding, final norm and, if not tied, head."""
    rows = (config.vocab_size, config.hidden_size)
    yield embedding(config)
    yield TensorSlice(FINAL_NORM, (config.hidden_size,), Role("final_norm", decays=False))
    if not config.tie_embeddings:
        yield TensorSlice(HEAD, rows, Role("head", cut=0))


def layer_tensors(config: ModelConfig, layer: int) -> Iterator[TensorSlice]:
    """Yield the tensors of one layer."""
    yield _norm(layer, "attention_norm", "input_layernorm", config.hidden_size)
    yield from _attention(config, layer)
    yield _norm(layer, "feed_forward_norm", "post_attention_layernorm", config.hidden_size)
    if config.moe is not None and config.has_experts(layer):
        yield from _mixture(config.moe, layer, config.hidden_size)
    else:
        name, size = f"{layer_prefix(layer)}mlp.", (config.ffn_size, config.hidden_size)
        yield from _feed_forward(name, size, layer, bias=config.mlp_bias)


def held_by(config: ModelConfig, share: Share) -> Iterator[TensorSlice]:
    """Yield the tensors of one share, each in full or as a span.

    A tied head is yielded once, under the embedding's name, also if the share has no embedding.
    """
    for tensor in tensors(config):
        held = _part(config, share, tensor)
        if held is not None:
            yield held


def saved(config: ModelConfig) -> Iterator[TensorSlice]:
    """Yield the tensors that a checkpoint holds: all, but with LoRA the factors alone."""
    alone = config.tuning is not None and config.tuning.lora is not None
    return (each for each in tensors(config) if each.role.factor is not None or not alone)


def parameters(config: ModelConfig) -> int:
    """Return the number of parameters, a tied head counted once."""
    return sum(tensor.elements for tensor in tensors(config))


def active_parameters(config: ModelConfig) -> int:
    """Return the number of parameters that one token uses."""
    if config.moe is None:
        return parameters(config)
    idle = config.moe.experts - config.moe.top_k
    expert = 3 * config.hidden_size * config.moe.expert_size
    return parameters(config) - len(config.moe_layers) * idle * expert


def answers_for(config: ModelConfig, share: Share, tensor: TensorSlice) -> bool:
    """Return whether this share is the one that counts and saves a tensor that it holds.

    A span or an expert has one holder in a gang; the leader counts and saves tensors that every
    member holds in full. A head tied to an embedding on another stage belongs to the rank that
    holds the embedding.
    """
    if tensor.role.part == "embedding" and not share.embedding:
        return False
    return share.leader or tensor.dim is not None or tensor.role.expert is not None


def _norm(layer: int, part: ModelPart, name: str, size: int) -> TensorSlice:
    role = Role(part, layer, decays=False)
    return TensorSlice(f"{layer_prefix(layer)}{name}.weight", (size,), role)


def _attention(config: ModelConfig, layer: int) -> Iterator[TensorSlice]:
    prefix, hidden = f"{layer_prefix(layer)}self_attn.", config.hidden_size
    query, key = config.heads * config.head_size, config.kv_heads * config.head_size
    projections: tuple[tuple[ModelPart, str, int], ...] = (
        ("query", "q_proj", query),
        ("key", "k_proj", key),
        ("value", "v_proj", key),
    )
    for part, name, rows in projections:
        role = Role(part, layer, cut=0)
        yield TensorSlice(f"{prefix}{name}.weight", (rows, hidden), role)
        if config.attention_bias:
            yield TensorSlice(f"{prefix}{name}.bias", (rows,), _bias(role))
    if config.query_key_norm is not None:
        yield from _query_key_norms(config, layer)
    role = Role("output", layer, cut=1)
    yield TensorSlice(f"{prefix}o_proj.weight", (hidden, query), role)
    if config.output_bias:
        yield TensorSlice(f"{prefix}o_proj.bias", (hidden,), _bias(role))


def _query_key_norms(config: ModelConfig, layer: int) -> Iterator[TensorSlice]:
    """Yield the norms of queries and keys.

    A norm of one head's size is shared by all heads; a norm over all heads is cut with the heads.
    """
    parts: tuple[tuple[ModelPart, str, int], ...] = (
        ("query_norm", "q_norm", config.heads),
        ("key_norm", "k_norm", config.kv_heads),
    )
    shared = config.query_key_norm == "head"
    for part, name, heads in parts:
        size = config.head_size * (1 if shared else heads)
        role = Role(part, layer, cut=None if shared else 0, decays=False)
        yield TensorSlice(f"{layer_prefix(layer)}self_attn.{name}.weight", (size,), role)


def _mixture(moe: MoeConfig, layer: int, hidden: int) -> Iterator[TensorSlice]:
    """Yield the tensors of the router, the experts and the shared expert."""
    prefix = f"{layer_prefix(layer)}mlp."
    if not moe.hashed:
        yield TensorSlice(f"{prefix}router.weight", (moe.experts, hidden), Role("router", layer))
    if moe.balance_bias:
        bias = Role("balance_bias", layer, bias=True, decays=False, trained=False)
        yield TensorSlice(f"{prefix}router.balance_bias", (moe.experts,), bias)
    for expert in range(moe.experts):
        name, size = f"{prefix}experts.{expert}.", (moe.expert_size, hidden)
        yield from _feed_forward(name, size, layer, expert=expert)
    if moe.shared_size:
        yield from _feed_forward(f"{prefix}shared.", (moe.shared_size, hidden), layer, shared=True)
    if moe.shared_gate:
        yield TensorSlice(f"{prefix}shared_gate.weight", (1, hidden), Role("shared_gate", layer))


def _feed_forward(
    prefix: str,
    size: tuple[int, int],
    layer: int,
    expert: int | None = None,
    shared: bool = False,
    bias: bool = False,
) -> Iterator[TensorSlice]:
    """Yield gate, up and down of one feed-forward of ``size`` (columns, hidden)."""
    columns, hidden = size
    matrices: tuple[tuple[ModelPart, str, tuple[int, int], int], ...] = (
        ("gate", "gate_proj", (columns, hidden), 0),
        ("up", "up_proj", (columns, hidden), 0),
        ("down", "down_proj", (hidden, columns), 1),
    )
    for part, name, shape, cut in matrices:
        role = Role(part, layer, expert, shared, cut=cut)
        yield TensorSlice(f"{prefix}{name}.weight", shape, role)
        if bias:
            yield TensorSlice(f"{prefix}{name}.bias", shape[:1], _bias(role))


def _bias(weight: Role) -> Role:
    """Return the role of the bias of a weight; the bias is cut if the outputs of the weight are
    cut.
    """
    return replace(weight, bias=True, cut=0 if weight.cut == 0 else None, decays=False)


def _part(config: ModelConfig, share: Share, tensor: TensorSlice) -> TensorSlice | None:
    """Return the part of a tensor that a share holds; None if it holds none."""
    role = tensor.role
    if role.layer is None:
        return _end_part(config, share, tensor)
    if not share.holds(role.layer):
        return None
    if role.expert is not None and config.placed_experts:
        return tensor if role.expert in share.experts_of(role.layer) else None
    if role.part in _ATTENTION:
        return _cut(tensor, share.kv_heads, config.kv_heads)
    if role.shared:
        return _cut(tensor, shared_span(config, share.ffn), config.shared_size)
    return _cut(tensor, share.ffn, config.ffn_size)


def _end_part(config: ModelConfig, share: Share, tensor: TensorSlice) -> TensorSlice | None:
    tied = share.head and config.tie_embeddings
    held = share.embedding or tied if tensor.role.part == "embedding" else share.head
    if not held or share.vocabulary is None:
        return tensor if held else None
    return _cut(tensor, share.vocabulary, config.vocab_size)


def _cut(tensor: TensorSlice, span: tuple[int, int], units: int) -> TensorSlice:
    """Return a span of the ``units`` (heads, columns, rows) along the dimension that holds them."""
    dim = tensor.role.cut
    if dim is None or span == (0, units):
        return tensor
    each = tensor.shape[dim] // units
    return tensor.span(dim, span[0] * each, span[1] * each)
