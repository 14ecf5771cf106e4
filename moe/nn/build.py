"""Builds a decoder on the meta device, then reads only its own tensors."""

from collections.abc import Callable

import torch
from torch import Tensor

from moe.config.model import ModelConfig
from moe.config.share import Share, whole
from moe.config.tensors import TensorSlice, held_by
from moe.nn.decoder import Decoder
from moe.nn.exchange import Exchange

ReadTensor = Callable[[TensorSlice], Tensor]


def build(
    config: ModelConfig,
    read: ReadTensor,
    share: Share | None = None,
    exchange: Exchange | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """Return the decoder of a share; ``read`` returns each of its tensors.

    ``dtype`` is that of products and their weights; norms, biases and gates are float32 at least.
    """
    share = share or whole(config)
    with torch.device("meta"):
        decoder = Decoder(config, share, exchange, dtype)
    parameters = dict(decoder.named_parameters())
    exact = torch.promote_types(dtype, torch.float32)
    for tensor in held_by(config, share):
        own = exact if tensor.role.exact else dtype
        parameters[tensor.name].data = parameters[tensor.name].to(own)
    decoder = decoder.to_empty(device=device)
    parameters = dict(decoder.named_parameters())
    with torch.no_grad():
        for tensor in held_by(config, share):
            parameters.pop(tensor.name).copy_(read(tensor))
    if parameters:
        raise RuntimeError(
            f"the module has parameters that the tensor table does not list: {sorted(parameters)}"
        )
    return decoder
