"""Router rows from prompts: what the router of a layer sees while a model reads them.

The row of an expert is the mean input of its router over the tokens of its prompts, less the mean
over experts, which separates none, and scaled to the length of a normal row.

Shapes: B prompts, S positions, D hidden, N experts.
"""

from collections.abc import Iterator, Sequence
from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import normalize

from moe.checkpoint.reader import Checkpoint
from moe.errors import ConfigError
from moe.surgery.mixing.options import Prompts
from moe.surgery.streamed import embedded, run, streamed_layer

_LEAST = 1e-5
"""The least distance from the mean over experts, relative to the length, that is not rounding."""


def prompt_rows(
    readers: Sequence[Checkpoint], prompts: Sequence[Prompts], deviation: float
) -> dict[int, Tensor]:
    """Return the router [N, D] of each layer; ``readers`` has the model that reads each expert's
    prompts.
    """
    means = [_means(reader, each) for reader, each in zip(readers, prompts, strict=True)]
    rows: dict[int, Tensor] = {}
    for layer in means[0]:
        found_ND = torch.stack([mean[layer] for mean in means])
        apart_ND = found_ND - found_ND.mean(dim=0)
        if bool((apart_ND.norm(dim=1) < _LEAST * found_ND.norm(dim=1)).any()):
            raise ConfigError(
                "the prompts of an expert have the mean of all experts: no row follows; give each "
                "model prompts of its own"
            )
        rows[layer] = normalize(apart_ND, dim=1) * (deviation * sqrt(apart_ND.shape[1]))
    return rows


def _means(reader: Checkpoint, prompts: Prompts) -> dict[int, Tensor]:
    """Return the mean input of the feed-forward of each layer, [D].

    Prompts are padded at the end, where no token before attends.
    """
    longest = max(len(tokens) for tokens in prompts.tokens)
    tokens_BS = torch.zeros(len(prompts.tokens), longest, dtype=torch.long)
    valid_BS = torch.zeros_like(tokens_BS, dtype=torch.bool)
    for row, tokens in enumerate(prompts.tokens):
        tokens_BS[row, : len(tokens)] = tokens
        valid_BS[row, : len(tokens)] = True
    return {
        layer: x_BSD[valid_BS].double().mean(dim=0).float()
        for layer, x_BSD in _feed_forward_inputs(reader, tokens_BS)
    }


@torch.no_grad()
def _feed_forward_inputs(checkpoint: Checkpoint, tokens_BS: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the inputs [B, S, D] of the feed-forward of each layer."""
    x_BSD = embedded(checkpoint, tokens_BS)
    for layer in range(checkpoint.config.layers):
        decoder, found = streamed_layer(checkpoint, layer), list[Tensor]()
        feed_forward = decoder.get_submodule(f"model.layers.{layer}.mlp")
        feed_forward.register_forward_pre_hook(
            lambda module, inputs, to=found: to.append(inputs[0])
        )
        x_BSD = run(decoder, tokens_BS, x_BSD)
        yield layer, found[0]
