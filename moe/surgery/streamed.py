"""A model computed from its files: only the rows being multiplied are in memory.

For any number of experts, memory holds activations, norms, gates and one block of rows. The modules
come from ``moe.nn``; only their linear layers are replaced.

Shapes: B batch, S sequence, D hidden, V vocabulary, T tokens, K experts per token, R rows of one
expert, F columns of one expert.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe.checkpoint.reader import Checkpoint
from moe.config.role import ModelPart
from moe.config.share import whole
from moe.config.tensors import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    TensorSlice,
    end_tensors,
    held_by,
    layer_prefix,
)
from moe.nn.block import MixtureOfExperts
from moe.nn.build import bare
from moe.nn.decoder import Decoder, Pass
from moe.nn.experts.experts import Experts
from moe.nn.feed_forward import DenseFeedForward, FeedForward
from moe.nn.later import Later
from moe.nn.linear import linear
from moe.nn.merged_mixture import MergedMixture
from moe.nn.weights.dense import Dense
from moe.nn.weights.weight import Weight
from moe.surgery.blocks import ACTIVITY_ELEMENTS, BLOCK_ELEMENTS, spans
from moe.surgery.streamed_merged import StreamedMergedExperts

_SEQUENCES = 8
"""Sequences that are computed at a time, where there may be many."""


class StreamedLinear(nn.Module):
    """A linear layer in float32 whose weight stays in the file; no factors lie beside it."""

    adapter = None

    def __init__(self, checkpoint: Checkpoint, weight: TensorSlice) -> None:
        super().__init__()
        self._checkpoint = checkpoint
        self._tensor = weight
        self.bias: Tensor | None = None

    @property
    def matrix(self) -> Weight:
        """The weight in float32; attention uses it for its output projection."""
        return Dense(self.stored.float())

    def forward(self, x: Tensor, later: Later | None = None) -> Tensor:
        """Apply the layer; the last dimension is the input. Nothing here has a gradient."""
        y = by_rows(x, self.stored)
        return y if self.bias is None else y + self.bias

    @property
    def stored(self) -> Tensor:
        """The weight in the file, memory-mapped and not read."""
        return self._checkpoint.read(self._tensor)

    def rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return the outputs ``start`` to ``stop``; no other rows of the weight are read."""
        weight = self._checkpoint.read(self._tensor.span(0, start, stop))
        y = linear(x, Dense(weight.float()))
        return y if self.bias is None else y + self.bias[start:stop]


class StreamedFeedForward(FeedForward):
    """A dense feed-forward, computed block by block of columns, with optional activity.

    ``activity`` [column, token], if set, is filled with the absolute inputs of the down projection.
    All columns in float32 would be by far the largest tensor in memory.
    """

    activity: Tensor | None = None

    def forward(self, x: Tensor, later: Later | None = None) -> Tensor:
        """Apply the layer; the last dimension is hidden. Nothing here has a gradient."""
        gate, up, down = self.gate_proj, self.up_proj, self.down_proj
        assert isinstance(gate, StreamedLinear)
        assert isinstance(up, StreamedLinear)
        assert isinstance(down, StreamedLinear)
        weight, y = down.stored, torch.zeros_like(x)
        elements = BLOCK_ELEMENTS if self.activity is None else ACTIVITY_ELEMENTS
        step = max(1, elements // max(x.numel() // x.shape[-1], x.shape[-1]))
        for start in range(0, weight.shape[1], step):
            stop = min(start + step, weight.shape[1])
            inner = F.silu(gate.rows(x, start, stop)).mul_(up.rows(x, start, stop))
            if self.activity is not None:
                self.activity[start:stop] = inner.flatten(0, -2).abs().T
            y += linear(inner, Dense(weight[:, start:stop].float().contiguous()))
        return y if down.bias is None else y + down.bias


class StreamedExperts(Experts):
    """Experts one after the other, each made when tokens come to it.

    Training keeps all experts of a layer at hand; this module holds none. ``watch``, if set, is
    called with the number of an expert, the rows of its tokens and their weighted outputs.
    """

    watch: Callable[[int, Tensor, Tensor], None] | None = None

    def __init__(self, checkpoint: Checkpoint, layer: Iterable[TensorSlice]) -> None:
        """Stand for the routed experts among the tensors of a layer."""
        config = checkpoint.config
        assert config.moe is not None
        super().__init__(config.hidden_size, config.moe.expert_size, ())
        self._checkpoint = checkpoint
        self._weights = {
            (tensor.role.expert, tensor.role.part): tensor
            for tensor in layer
            if tensor.role.expert is not None
        }
        self.numbers = tuple(range(config.experts))

    def forward(
        self,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        kept_TK: Tensor,
        later: Later | None = None,
        room: int | None = None,
    ) -> Tensor:
        """Return the weighted sum of the experts, [T, D]. Nothing here has a gradient."""
        y_TD = torch.zeros_like(x_TD)
        for number in self.numbers:
            rows, places = ((experts_TK == number) & kept_TK).nonzero(as_tuple=True)
            if rows.numel():
                y_RD = self.output(number, x_TD[rows]) * weights_TK[rows, places, None]
                y_TD.index_add_(0, rows, y_RD)
                if self.watch is not None:
                    self.watch(number, rows, y_RD)
        return y_TD

    def output(self, number: int, x_RD: Tensor) -> Tensor:
        """Return the output of one expert on rows, [R, D]."""
        inner_RF = F.silu(self._linear(number, "gate")(x_RD)) * self._linear(number, "up")(x_RD)
        y_RD: Tensor = self._linear(number, "down")(inner_RF)
        return y_RD

    def _linear(self, number: int, part: ModelPart) -> StreamedLinear:
        return StreamedLinear(self._checkpoint, self._weights[number, part])


def by_rows(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x @ weight.T`` in float32, computed in blocks of rows."""
    parts = [linear(x, Dense(weight[start:stop].float())) for start, stop in spans(weight)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


@torch.no_grad()
def embedded(checkpoint: Checkpoint, tokens_BS: Tensor) -> Tensor:
    """Return the embeddings [B, S, D]; only the needed rows are read."""
    return _whole(checkpoint, EMBEDDING)[tokens_BS].float()


@torch.no_grad()
def advance(checkpoint: Checkpoint, layer: int, tokens_BS: Tensor, x_BSD: Tensor) -> Tensor:
    """Return the hidden states after one layer."""
    return run(streamed_layer(checkpoint, layer), tokens_BS, x_BSD)


@torch.no_grad()
def logits(checkpoint: Checkpoint, tokens_BS: Tensor) -> Tensor:
    """Return the logits [B, S, V]."""
    x_BSD = last_states(checkpoint, tokens_BS)
    return by_rows(final_normed(checkpoint, x_BSD), head_weight(checkpoint))


@torch.no_grad()
def last_states(checkpoint: Checkpoint, tokens_BS: Tensor) -> Tensor:
    """Return the hidden states [B, S, D] after the last layer."""
    x_BSD = embedded(checkpoint, tokens_BS)
    for layer in range(checkpoint.config.layers):
        x_BSD = in_parts(streamed_layer(checkpoint, layer), tokens_BS, x_BSD)
    return x_BSD


def final_normed(checkpoint: Checkpoint, x_BSD: Tensor) -> Tensor:
    """Return what the head multiplies, of the hidden states after the last layer."""
    norm = _whole(checkpoint, FINAL_NORM).float()
    return F.rms_norm(x_BSD, norm.shape, norm, checkpoint.config.norm_eps)


def head_weight(checkpoint: Checkpoint) -> Tensor:
    """Return the output matrix [V, D], memory-mapped and not read."""
    return _whole(checkpoint, EMBEDDING if checkpoint.config.tie_embeddings else HEAD)


@torch.no_grad()
def activities(
    checkpoint: Checkpoint, tokens_BS: Tensor, layers: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """Yield the activity [column, token] of layers of a dense model.

    In bfloat16: three digits distinguish columns, and nothing else of a layer is kept.
    """
    x_BSD = embedded(checkpoint, tokens_BS)
    for layer in range(max(layers) + 1):
        decoder = streamed_layer(checkpoint, layer)
        found = decoder.get_submodule(f"model.layers.{layer}.mlp")
        assert isinstance(found, StreamedFeedForward)
        if layer in layers:
            size = (checkpoint.config.ffn_size, tokens_BS.numel())
            found.activity = torch.empty(size, dtype=torch.bfloat16)
        x_BSD = run(decoder, tokens_BS, x_BSD)
        if found.activity is not None:
            yield layer, found.activity


def run(decoder: Decoder, tokens_BS: Tensor, x_BSD: Tensor) -> Tensor:
    """Return the hidden states after the layers of a decoder without ends."""
    values: Tensor = decoder(x_BSD, Pass(tokens=tokens_BS, measured=False)).values
    return values


def in_parts(decoder: Decoder, tokens_BS: Tensor, x_BSD: Tensor) -> Tensor:
    """Return the same, a few sequences at a time."""
    parts = zip(torch.split(tokens_BS, _SEQUENCES), torch.split(x_BSD, _SEQUENCES), strict=True)
    return torch.cat([run(decoder, *part) for part in parts])


def _whole(checkpoint: Checkpoint, name: str) -> Tensor:
    ends = {tensor.name: tensor for tensor in end_tensors(checkpoint.config)}
    return checkpoint.read(ends[name])


def streamed_layer(
    checkpoint: Checkpoint, layer: int, experts: type[StreamedExperts] = StreamedExperts
) -> Decoder:
    """Return one layer; its linear layers read the file, its other tensors are in memory."""
    config = checkpoint.config
    one = replace(whole(config), layers=(layer, layer + 1), embedding=False, head=False)
    share = replace(one, experts=())  # their modules would cost more than their products
    with bare():
        decoder = Decoder(config, share)
        block = decoder.get_submodule(f"model.layers.{layer}")
        if isinstance(block.mlp, DenseFeedForward):  # Only its gang needs the weight in one piece.
            block.mlp = StreamedFeedForward(config.hidden_size, config.ffn_size, config.mlp_bias)
        if isinstance(block.mlp, MixtureOfExperts):
            block.mlp.experts = experts(checkpoint, held_by(config, one))
        if isinstance(block.mlp, MergedMixture):
            block.mlp.experts = StreamedMergedExperts(checkpoint, held_by(config, one))
    held = {tensor.name: tensor for tensor in held_by(config, share)}
    _exchange_linears(checkpoint, block, layer_prefix(layer), held)
    remaining = {name for name, _ in decoder.named_parameters()}
    for tensor in held.values():
        if tensor.name in remaining or tensor.role.bias:
            _put(decoder, tensor.name, checkpoint.read(tensor).float())
    return decoder


def _exchange_linears(
    checkpoint: Checkpoint, block: nn.Module, prefix: str, held: Mapping[str, TensorSlice]
) -> None:
    for name in [name for name, each in block.named_modules() if isinstance(each, nn.Linear)]:
        weight = held[f"{prefix}{name}.weight"]
        block.set_submodule(name, StreamedLinear(checkpoint, weight))


def _put(decoder: Decoder, name: str, value: Tensor) -> None:
    """Set a tensor, a parameter or the bias of a streamed layer."""
    module_name, _, attribute = name.rpartition(".")
    module = decoder.get_submodule(module_name)
    if isinstance(module, StreamedLinear):
        module.bias = value
    else:
        module.register_parameter(attribute, nn.Parameter(value, requires_grad=False))
