"""What the routers and experts of a model do on some tokens, computed from its files.

One layer is in memory at a time, with the hidden states of the tokens; sequences are computed a few
at a time.

Shapes: B sequences, S positions, T tokens = B * S, D hidden, N experts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.nn.decoder import Decoder
from moe.nn.router import Router, Routing
from moe.surgery.streamed import StreamedExperts, embedded, in_parts, streamed_layer


@dataclass(frozen=True, slots=True)
class Routed:
    """One layer on the tokens: the inputs [T, D] of router and experts, and the routing of each.

    ``reach`` [N] sums the lengths of an expert's weighted outputs over its tokens. ``experts``
    computes the output of any expert on any rows.
    """

    layer: int
    inputs: Tensor
    routing: Routing
    reach: Tensor
    experts: StreamedExperts

    @property
    def load(self) -> Tensor:
        """Number of tokens of each expert, [N]."""
        return torch.bincount(self.routing.experts.flatten(), minlength=len(self.reach))

    @property
    def shares(self) -> list[float]:
        """The share of each expert of all (token, expert) pairs."""
        return (self.load.double() / self.load.sum()).tolist()


@torch.no_grad()
def routed(checkpoint: Checkpoint, tokens_BS: Tensor) -> Iterator[Routed]:
    """Yield what each layer with experts does, the first layer first."""
    config = checkpoint.config
    x_BSD = embedded(checkpoint, tokens_BS)
    for layer in range(config.moe_layers[-1] + 1):
        decoder = streamed_layer(checkpoint, layer)
        watch = _Watch(decoder, layer, config.experts) if config.has_experts(layer) else None
        x_BSD = in_parts(decoder, tokens_BS, x_BSD)
        if watch is not None:
            yield watch.seen()


class _Watch:
    """Keeps what passes through the router of a layer, and measures what comes of its experts."""

    def __init__(self, decoder: Decoder, layer: int, experts: int) -> None:
        mixture = decoder.mixture(layer)
        assert isinstance(mixture.experts, StreamedExperts)
        self._layer, self._experts = layer, mixture.experts
        self._reach_N = torch.zeros(experts, dtype=torch.float64)
        self._inputs: list[Tensor] = []
        self._routings: list[Routing] = []
        mixture.router.register_forward_hook(self._keep)
        mixture.experts.watch = self._measure

    def seen(self) -> Routed:
        """Return what has passed so far."""
        routing = Routing(*(torch.cat(parts) for parts in zip(*self._routings, strict=True)))
        inputs_TD = torch.cat(self._inputs)
        return Routed(self._layer, inputs_TD, routing, self._reach_N, self._experts)

    def _keep(self, router: Router, given: tuple[Tensor, ...], routing: Routing) -> None:
        self._inputs.append(given[0])
        self._routings.append(routing)

    def _measure(self, expert: int, rows_R: Tensor, y_RD: Tensor) -> None:
        self._reach_N[expert] += y_RD.norm(dim=1).double().sum()
