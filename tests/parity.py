"""Our decoder against a transformers model: logits, and the gradient of every parameter.

Compared in float64, where rounding does not hide a difference in a gradient that is nearly zero,
and in float32, where products take the way of training (oneDNN).
"""

from typing import Any

import torch

from moe.nn.decoder import Decoder
from tests import tiny

NAMES = {
    ".mlp.gate.": ".mlp.router.",
    ".mlp.shared_expert.": ".mlp.shared.",
    ".mlp.shared_expert_gate.": ".mlp.shared_gate.",
}


TOLERANCES = {torch.float64: (1e-5, 0.01), torch.float32: (1e-4, 0.1)}
"""Of a gradient, relative to its largest entry or to this part of the largest of any."""


def close(
    ours: torch.Tensor, theirs: torch.Tensor, floor: float = 0.0, tolerance: float = 1e-5
) -> bool:
    """Compare relative to the largest entry; ``floor`` judges what is zero but for rounding."""
    return bool((ours - theirs).abs().max() <= tolerance * max(theirs.abs().max().item(), floor))


def check_logits(decoder: Decoder, model: Any) -> None:
    """Compare the logits of two sequences."""
    inputs = tiny.tokens(model.config.vocab_size, 2, 11)
    with torch.no_grad():
        assert close(decoder(inputs).values, model(inputs).logits)


def check_parity(decoder: Decoder, model: Any, dtype: torch.dtype = torch.float64) -> None:
    """Compare logits, and every gradient of a random function of them."""
    model, decoder = model.to(dtype), decoder.to(dtype)
    model.zero_grad()
    decoder.zero_grad()
    inputs = tiny.tokens(model.config.vocab_size, 2, 11)
    theirs, ours = model(inputs).logits, decoder(inputs).values
    assert ours.dtype == dtype
    tolerance, part = TOLERANCES[dtype]
    assert close(ours, theirs, tolerance=tolerance)
    weights = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(3))
    (theirs * weights).sum().backward()
    (ours * weights).sum().backward()
    expected = gradients(model)
    found = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in decoder.named_parameters()
    }
    assert found.keys() == expected.keys()
    floor = part * max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in found.items():
        assert close(gradient, expected[name], floor, tolerance), name


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Return transformers' gradients under our names, its stacked experts one by one."""
    found = {}
    for name, parameter in model.named_parameters():
        prefix, stacked, kind = name.partition(".mlp.experts.")
        if not stacked:
            for theirs, ours in NAMES.items():
                name = name.replace(theirs, ours)
            found[name] = parameter.grad
            continue
        parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
        for expert, gradient in enumerate(parameter.grad):
            for part, piece in zip(parts, gradient.chunk(len(parts)), strict=True):
                found[f"{prefix}{stacked}{expert}.{part}.weight"] = piece
    return found
