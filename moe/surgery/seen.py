"""What calibration tokens do in a model, layer by layer, with the weights in the files.

Shapes: B batch, S sequence, T tokens = B * S, D hidden, K experts per token, N experts.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moe.checkpoint.reader import Checkpoint
from moe.nn.block import MixtureOfExperts
from moe.nn.decoder import Decoder, Pass
from moe.nn.router import Routing
from moe.surgery.streamed import embedded, streamed_layer


class Seen(NamedTuple):
    """The inputs [T, D] of the router of one layer, and its routing."""

    layer: int
    inputs: Tensor
    routing: Routing

    @property
    def load(self) -> list[float]:
        """The share of the (token, expert) pairs of each expert."""
        experts = self.routing.scores.shape[1]
        counts = torch.bincount(self.routing.experts.flatten(), minlength=experts).double()
        return (counts / counts.sum()).tolist()


@torch.no_grad()
def seen(checkpoint: Checkpoint, tokens_BS: Tensor) -> Iterator[Seen]:
    """Yield what the router of each layer with experts sees."""
    x_BSD = embedded(checkpoint, tokens_BS)
    how = Pass(tokens=tokens_BS, measured=False)
    for layer in range(checkpoint.config.layers):
        decoder = streamed_layer(checkpoint, layer)
        found = _watched(decoder, layer)
        x_BSD = decoder(x_BSD, how).values
        if found:
            yield Seen(layer, *found[0])


def _watched(decoder: Decoder, layer: int) -> list[tuple[Tensor, Routing]]:
    """Return a list that the next pass fills with inputs and output of the router, if any."""
    found: list[tuple[Tensor, Routing]] = []
    block = decoder.get_submodule(f"model.layers.{layer}")
    if isinstance(block.mlp, MixtureOfExperts):

        def note(module: nn.Module, inputs: tuple[Tensor, ...], routing: Routing) -> None:
            found.append((inputs[0], routing))

        block.mlp.router.register_forward_hook(note)
    return found


@torch.no_grad()
def feed_forward_inputs(checkpoint: Checkpoint, tokens_BS: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the inputs [B, S, D] of the feed-forward, or of the experts, of each layer."""
    x_BSD = embedded(checkpoint, tokens_BS)
    how = Pass(tokens=tokens_BS, measured=False)
    for layer in range(checkpoint.config.layers):
        decoder, found = streamed_layer(checkpoint, layer), list[Tensor]()
        feed_forward = decoder.get_submodule(f"model.layers.{layer}.mlp")
        feed_forward.register_forward_pre_hook(
            lambda module, inputs, to=found: to.append(inputs[0])
        )
        x_BSD = decoder(x_BSD, how).values
        yield layer, found[0]
