"""Every tensor of a model by name and shape, and the slice of each that a share holds.

The one table that loading, saving, planning and comparing plans read. Names are ours and do not
depend on the plan; ``moe.checkpoint.names`` turns them into those of a family on disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import Share, shared_span

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """One tensor, or a span of it along one dimension.

    ``shape`` is the whole tensor's; ``dim`` is None where all of it is held.
    """

    name: str
    shape: tuple[int, ...]
    dim: int | None = None
    start: int = 0
    stop: int = 0

    @property
    def held_shape(self) -> tuple[int, ...]:
        """Shape of the part held."""
        if self.dim is None:
            return self.shape
        return (*self.shape[: self.dim], self.stop - self.start, *self.shape[self.dim + 1 :])

    @property
    def elements(self) -> int:
        """Number of elements held."""
        return prod(self.held_shape)


def layer_prefix(layer: int) -> str:
    """Return the prefix of every tensor of one layer."""
    return f"model.layers.{layer}."


def tensors(config: ModelConfig) -> Iterator[TensorSlice]:
    """Yield every tensor of the model as it stands on disk; a tied head is not repeated."""
    hidden = config.hidden_size
    yield TensorSlice(EMBEDDING, (config.vocab_size, hidden))
    for layer in range(config.layers):
        yield from _layer(config, layer)
    yield TensorSlice(FINAL_NORM, (hidden,))
    if not config.tie_embeddings:
        yield TensorSlice(HEAD, (config.vocab_size, hidden))


def held_by(config: ModelConfig, share: Share) -> Iterator[TensorSlice]:
    """Yield what one share holds, each tensor whole or as a span.

    A tied head is yielded under the embedding's name, once, also where the share has no embedding.
    """
    for tensor in tensors(config):
        held = _part(config, share, tensor)
        if held is not None:
            yield held


def parameters(config: ModelConfig) -> int:
    """Return the number of parameters, a tied head counted once."""
    return sum(tensor.elements for tensor in tensors(config))


def active_parameters(config: ModelConfig) -> int:
    """Return the number of parameters that one token passes through."""
    if config.moe is None:
        return parameters(config)
    idle = config.moe.experts - config.moe.top_k
    expert = 3 * config.hidden_size * config.moe.expert_size
    return parameters(config) - len(config.moe_layers) * idle * expert


def is_trained(name: str) -> bool:
    """Tell whether gradients move a tensor; the balance bias of a router is moved by its load."""
    return not name.endswith(".balance_bias")


def _layer(config: ModelConfig, layer: int) -> Iterator[TensorSlice]:
    prefix, hidden = layer_prefix(layer), config.hidden_size
    query, key = config.heads * config.head_size, config.kv_heads * config.head_size
    yield TensorSlice(f"{prefix}input_layernorm.weight", (hidden,))
    for part, rows in (("q", query), ("k", key), ("v", key)):
        yield TensorSlice(f"{prefix}self_attn.{part}_proj.weight", (rows, hidden))
        if config.attention_bias:
            yield TensorSlice(f"{prefix}self_attn.{part}_proj.bias", (rows,))
    yield from _query_key_norms(config, prefix, query, key)
    yield TensorSlice(f"{prefix}self_attn.o_proj.weight", (hidden, query))
    if config.output_bias:
        yield TensorSlice(f"{prefix}self_attn.o_proj.bias", (hidden,))
    yield TensorSlice(f"{prefix}post_attention_layernorm.weight", (hidden,))
    if config.moe is not None and config.has_experts(layer):
        yield from _experts(config.moe, f"{prefix}mlp.", hidden)
    else:
        yield from _feed_forward(f"{prefix}mlp.", hidden, config.ffn_size, config.mlp_bias)


def _query_key_norms(
    config: ModelConfig, prefix: str, query: int, key: int
) -> Iterator[TensorSlice]:
    if config.query_key_norm is None:
        return
    each = config.query_key_norm == "head"
    for part, size in (("q", query), ("k", key)):
        yield TensorSlice(
            f"{prefix}self_attn.{part}_norm.weight", (config.head_size if each else size,)
        )


def _experts(moe: MoeConfig, prefix: str, hidden: int) -> Iterator[TensorSlice]:
    if not moe.hashed:
        yield TensorSlice(f"{prefix}router.weight", (moe.experts, hidden))
    if moe.balance_bias:
        yield TensorSlice(f"{prefix}router.balance_bias", (moe.experts,))
    for expert in range(moe.experts):
        yield from _feed_forward(f"{prefix}experts.{expert}.", hidden, moe.expert_size, False)
    if moe.shared_size:
        yield from _feed_forward(f"{prefix}shared.", hidden, moe.shared_size, False)
    if moe.shared_gate:
        yield TensorSlice(f"{prefix}shared_gate.weight", (1, hidden))


def _feed_forward(prefix: str, hidden: int, size: int, bias: bool) -> Iterator[TensorSlice]:
    for part, shape in (
        ("gate", (size, hidden)),
        ("up", (size, hidden)),
        ("down", (hidden, size)),
    ):
        yield TensorSlice(f"{prefix}{part}_proj.weight", shape)
        if bias:
            yield TensorSlice(f"{prefix}{part}_proj.bias", shape[:1])


def _part(config: ModelConfig, share: Share, tensor: TensorSlice) -> TensorSlice | None:
    words = tensor.name.split(".")
    if words[1] != "layers":
        return _end_part(config, share, tensor)
    if not share.holds(int(words[2])):
        return None
    if words[3] == "self_attn":
        return _attention_part(config, share, tensor)
    if words[3] != "mlp" or words[4] in ("router", "shared_gate"):
        return tensor
    if words[4] == "experts":
        return tensor if int(words[5]) in share.experts_of(int(words[2])) else None
    if words[4] == "shared":
        return _span(tensor, shared_span(config, share.ffn), config.shared_size)
    return _span(tensor, share.ffn, config.ffn_size)


def _end_part(config: ModelConfig, share: Share, tensor: TensorSlice) -> TensorSlice | None:
    tied = share.head and config.tie_embeddings
    held = share.embedding or tied if tensor.name == EMBEDDING else share.head
    if not held or tensor.name == FINAL_NORM or share.vocabulary is None:
        return tensor if held else None
    return _span(tensor, share.vocabulary, config.vocab_size)


def _attention_part(config: ModelConfig, share: Share, tensor: TensorSlice) -> TensorSlice:
    if config.query_key_norm == "head" and "_norm." in tensor.name:
        return tensor
    rows = config.head_size
    if any(part in tensor.name for part in (".q_proj.", ".o_proj.", ".q_norm.")):
        rows *= config.heads_per_kv
    start, stop = share.kv_heads
    return _span(tensor, (start * rows, stop * rows), config.kv_heads * rows)


def _span(tensor: TensorSlice, span: tuple[int, int], size: int) -> TensorSlice:
    """Cut the output rows of a column-parallel weight, the input columns of a row-parallel one."""
    row_parallel = ".o_proj." in tensor.name or ".down_proj." in tensor.name
    if span == (0, size) or (row_parallel and tensor.name.endswith(".bias")):
        return tensor
    return TensorSlice(tensor.name, tensor.shape, 1 if row_parallel else 0, *span)


def answers_for(config: ModelConfig, share: Share, tensor: TensorSlice) -> bool:
    """Tell whether this share alone counts and saves a tensor it holds.

    Spans and experts have one holder in a gang; what every member holds in full belongs to the
    leader. A head tied to an embedding on another stage belongs to the embedding's holder.
    """
    if tensor.name == EMBEDDING and not share.embedding:
        return False
    return share.leader or tensor.dim is not None or ".mlp.experts." in tensor.name
