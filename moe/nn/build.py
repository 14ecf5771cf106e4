"""Builds a decoder on the meta device, then reads only its own tensors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moe.config.model import ModelConfig
from moe.config.share import Share, whole
from moe.config.tensors import TensorSlice, held_by
from moe.nn.decoder import Decoder
from moe.nn.exchange import Exchange

ReadTensor = Callable[[TensorSlice], Tensor]
"""Returns a part of a tensor."""


def build(
    config: ModelConfig,
    read: Callable[[TensorSlice], Tensor | None] | None,
    share: Share | None = None,
    exchange: Exchange | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """Return the decoder of a share; ``read`` returns each of its tensors. Those for which it
    returns None, or all without it, are left without values.

    ``dtype`` is that of products and their weights; norms, biases and gates are float32 at least.
    """
    share = share or whole(config)
    with bare():
        decoder = Decoder(config, share, exchange, dtype)
    exact = torch.promote_types(dtype, torch.float32)
    roles = {tensor.name: tensor.role for tensor in held_by(config, share)}
    narrow = {name for name, role in roles.items() if not role.exact}
    for name in [name for name, _ in decoder.named_parameters()]:
        own = dtype if name in narrow else exact
        _give_memory(decoder, name, own, device, name not in roles or roles[name].trained)
    parameters = dict(decoder.to(device).named_parameters())
    with torch.no_grad():
        for tensor in held_by(config, share):
            parameter = parameters.pop(tensor.name)
            found = None if read is None else read(tensor)
            if found is not None:
                parameter.copy_(found)
    if parameters:
        raise RuntimeError(
            f"the module has parameters that the tensor table does not list: {sorted(parameters)}"
        )
    return decoder


def _give_memory(
    decoder: Decoder,
    name: str,
    dtype: torch.dtype,
    device: torch.device | str,
    trained: bool,
) -> None:
    """Put a parameter with memory in the place of one without.

    ``Module.to_empty`` would import torch's symbolic shapes for it, half a second for each process.
    """
    owner, _, own = name.rpartition(".")
    shape = decoder.get_parameter(name).shape
    made = nn.Parameter(torch.empty(shape, dtype=dtype, device=device), trained)
    setattr(decoder.get_submodule(owner), own, made)


@contextmanager
def bare() -> Iterator[None]:
    """Make modules whose parameters have shapes but no memory and no values."""
    with torch.device("meta"), _WithoutValues():
        yield


class _WithoutValues(TorchFunctionMode):
    """Skips the initialisation of parameters: on the meta device, torch would import its compiler
    for it, which takes every new process a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the parameter as it is; call everything else."""
        given = dict(kwargs or {})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)
