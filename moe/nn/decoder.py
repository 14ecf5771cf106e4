"""The decoder, and any slice of it by layer number.

A stage is the complete model minus some numbered layers, so tensor names do not depend on the plan.
The top-level forward is a loop over the held layers.

Shapes: B batch, S sequence, D hidden, V vocabulary, N experts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moe.config.model import ModelConfig
from moe.config.share import Share, whole
from moe.nn.attention import LayerCache
from moe.nn.balance import NO_LOSS, Balance
from moe.nn.block import Block, MixtureOfExperts
from moe.nn.dispatch import DROPLESS, Capacity
from moe.nn.documents import Documents
from moe.nn.exchange import Alone, Exchange
from moe.nn.experts.experts import Experts
from moe.nn.inputs import InputSums
from moe.nn.later import Later
from moe.nn.layer_pass import BlockOutput, LayerPass
from moe.nn.linear import linear
from moe.nn.loss import head_loss
from moe.nn.merged_mixture import MergedMixture
from moe.nn.norm import Norm
from moe.nn.recompute import recomputed
from moe.nn.rotary import rotation
from moe.nn.signal import Reached, signal
from moe.nn.statistics import RoutingStatistics
from moe.nn.vocabulary import Embedding, SplitEmbedding, rows_of, split_logits
from moe.nn.weights.dense import Dense


class SequenceCache:
    """Keys and values of one sequence in the layers of one share."""

    def __init__(self, share: Share) -> None:
        self.layers = {layer: LayerCache() for layer in share.layer_numbers}

    @property
    def length(self) -> int:
        """Positions held so far."""
        return next(iter(self.layers.values())).length


@dataclass(frozen=True, slots=True)
class Pass:
    """The inputs of a forward pass besides tokens or hidden states.

    ``balance`` has the router losses. ``valid`` [B, S] is False for padding tokens, to the right of
    its sequence: experts do not see padding and statistics do not count it. ``tokens`` [B, S] are
    needed by models that hash tokens to experts, on shares without the embedding. With ``measured``
    False, a pass computes neither statistics nor router losses.

    With ``last_only``, only the logits of the last position are computed. With ``logits`` False,
    the share with the head returns the normed hidden states that ``Decoder.loss`` takes. Layers in
    ``recompute`` keep only their input for the backward pass. ``layers`` is the span of layers to
    compute, for a share that holds several spans; None means all layers. ``later`` collects
    deferred gradients of weights; ``reached`` is called with the number of each layer whose
    backward pass is complete, ``entered`` with that of each before its forward pass. ``inputs``
    collects what experts are given. ``documents`` says where documents share rows; such a pass has
    no cache.
    """

    capacity: Capacity = DROPLESS
    balance: Balance = NO_LOSS
    cache: SequenceCache | None = None
    valid: Tensor | None = None
    tokens: Tensor | None = None
    measured: bool = True
    last_only: bool = False
    logits: bool = True
    recompute: frozenset[int] = frozenset()
    layers: tuple[int, int] | None = None
    later: Later | None = None
    reached: Reached | None = None
    entered: Reached | None = None
    inputs: InputSums | None = None
    documents: Documents | None = None


PLAIN = Pass()


class DecoderOutput(NamedTuple):
    """Logits [B, S, V] if the share has the head and logits are asked for, else hidden states [B,
    S, D].
    """

    values: Tensor
    statistics: dict[int, RoutingStatistics]


class Trunk(nn.Module):
    """The part of the decoder whose tensor names begin with ``model``."""

    def __init__(
        self, config: ModelConfig, share: Share, exchange: Exchange, narrow: torch.dtype | None
    ) -> None:
        super().__init__()
        if share.embedding or (share.head and config.tie_embeddings):
            self.embed_tokens = _embedding(config, share, exchange)
        self.layers = nn.ModuleDict(
            {
                str(layer): Block(config, layer, share, exchange, narrow)
                for layer in share.layer_numbers
            }
        )
        if share.head:
            self.norm = Norm(config.hidden_size, config.norm_eps, narrow)


class Decoder(nn.Module):
    """A share of the model: from token ids or hidden states to hidden states or logits.

    Products compute in ``dtype``, of which ``moe.nn.build`` makes their weights. Hidden states are
    float32 where that is narrower; ``narrow`` says so.
    """

    def __init__(
        self,
        config: ModelConfig,
        share: Share | None = None,
        exchange: Exchange | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config = config
        self.narrow = torch.promote_types(dtype, torch.float32) != dtype
        self.share = share or whole(config)
        self.model = Trunk(config, self.share, exchange or Alone(), dtype if self.narrow else None)
        self.rows = rows_of(config, self.share, exchange or Alone())
        if self.share.head and not config.tie_embeddings:
            held = self.rows.held if self.rows else config.vocab_size
            self.lm_head = nn.Linear(config.hidden_size, held, bias=False)

    @property
    def head_weight(self) -> Tensor:
        """The held rows of the output matrix; the rows of the embedding if the two are tied."""
        tied = self.config.tie_embeddings
        return self.model.embed_tokens.weight if tied else self.lm_head.weight

    def forward(self, x: Tensor, how: Pass = PLAIN) -> DecoderOutput:
        """Apply the share, or a span of its layers, to tokens [B, S] or hidden states [B, S, D]."""
        tokens_BS = how.tokens
        first, last = self._ends(how)
        if first:
            tokens_BS, x = x, self.model.embed_tokens(x)
            if torch.is_grad_enabled() and not x.requires_grad:
                x.requires_grad_()  # A frozen embedding; the backward pass goes through all layers.
        statistics: dict[int, RoutingStatistics] = {}
        for layer, output in self._blocks(x, how, tokens_BS):
            x = output.hidden
            if output.statistics is not None:
                statistics[layer] = output.statistics
        if last:
            x = self.model.norm(x[:, -1:] if how.last_only else x)
            x = self._logits(x) if how.logits else x
        return DecoderOutput(x, statistics)

    def _blocks(
        self, x: Tensor, how: Pass, tokens_BS: Tensor | None
    ) -> Iterator[tuple[int, BlockOutput]]:
        """Yield the output of each layer of the share, or of each layer in ``how.layers``."""
        layers = range(*how.layers) if how.layers else self.share.layer_numbers
        start = how.cache.layers[layers[0]].length if how.cache else 0
        rotary = rotation(self.config, _positions(how, start, x))
        again = how.recompute if torch.is_grad_enabled() else frozenset()
        for layer in layers:
            block, own = self.model.layers[str(layer)], _of_layer(how, layer, tokens_BS)
            if how.entered is not None:
                how.entered(layer)
            if how.reached is not None:
                x = signal(x, how.reached, layer)
            output = recomputed(block, x, rotary, own) if layer in again else block(x, rotary, own)
            yield layer, output
            x = output.hidden

    def _ends(self, how: Pass) -> tuple[bool, bool]:
        """Return whether a pass begins with the embedding, and whether it ends with the head."""
        if how.layers is None:
            return self.share.embedding, self.share.head
        start, stop = how.layers
        return start == 0, stop == self.config.layers

    def mixture(self, layer: int) -> MixtureOfExperts:
        """Return the layer that sends tokens to experts; KeyError if the share has none there."""
        block = self.model.layers[str(layer)]
        if not isinstance(block.mlp, MixtureOfExperts):
            raise KeyError(f"layer {layer} sends no tokens to experts")
        return block.mlp

    def experts(self, layer: int) -> Experts:
        """Return what this share holds of the experts of one layer; KeyError if it has none."""
        block = self.model.layers[str(layer)]
        if not isinstance(block.mlp, MixtureOfExperts | MergedMixture):
            raise KeyError(f"layer {layer} has no experts")
        return block.mlp.experts

    def loss(self, hidden_BSD: Tensor, labels_BS: Tensor, scale: float) -> Tensor:
        """Return ``head_loss`` of the output of a pass without logits, on the share with the
        head.
        """
        return head_loss(hidden_BSD, self.head_weight, labels_BS, scale, self.rows)

    def _logits(self, x: Tensor) -> Tensor:
        if self.rows is None:
            return linear(x, Dense(self.head_weight))
        return split_logits(x, self.head_weight, self.rows)


def _embedding(config: ModelConfig, share: Share, exchange: Exchange) -> nn.Embedding:
    rows = rows_of(config, share, exchange)
    if rows is None:
        return Embedding(config.vocab_size, config.hidden_size)
    return SplitEmbedding(rows, config.hidden_size)


def _positions(how: Pass, start: int, x: Tensor) -> Tensor:
    """Return the positions of x, [S]; [B, 1, S] where they are those within documents."""
    if how.documents is not None:
        return how.documents.positions[:, None]
    return torch.arange(start, start + x.shape[1], device=x.device)


def _of_layer(how: Pass, layer: int, tokens_BS: Tensor | None) -> LayerPass:
    cache = how.cache.layers[layer] if how.cache else None
    return LayerPass(
        how.capacity,
        how.balance,
        cache,
        how.valid,
        tokens_BS,
        how.measured,
        how.later,
        how.inputs,
        how.documents,
    )
