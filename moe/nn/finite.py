"""Finds the first part of a model that computes values that are not finite."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from moe.nn.decoder import Decoder, Pass


@torch.inference_mode()
def first_fault(decoder: Decoder, tokens_BS: Tensor, run: Pass) -> str | None:
    """Return the first part of a complete model whose output is not finite, and its bad tensors.

    None if everything is finite.
    """
    faulty: list[str] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if not faulty and not all(torch.isfinite(each).all() for each in _tensors(output)):
                faulty.append(f"{name}: {_weights(module)}")

        return module.register_forward_hook(look)

    handles = [watch(name, module) for name, module in _parts(decoder)]
    try:
        decoder(tokens_BS, run)
    finally:
        for handle in handles:
            handle.remove()
    return faulty[0] if faulty else None


def _parts(decoder: Decoder) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts in order of computation."""
    yield "the embedding", decoder.model.embed_tokens
    for layer in decoder.share.layer_numbers:
        yield f"layer {layer}", decoder.model.layers[str(layer)]
    yield "the last norm", decoder.model.norm
    yield "the output", decoder


def _tensors(output: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors in the output of a module."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple):
        for value in output:
            yield from _tensors(value)


def _weights(module: nn.Module) -> str:
    """Return a description of the tensors of a module that are not finite."""
    bad = {
        name: int((~torch.isfinite(tensor)).sum())
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if not torch.isfinite(tensor).all()
    }
    if not bad:
        return "its weights are finite, but its output is not"
    counts = [f"{name} holds {count}" for name, count in bad.items()]
    return f"{', '.join(counts)} values that are not finite"
