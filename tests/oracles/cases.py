"""Inputs that are drawn, and cases as the file of golden values holds them."""

import json
import struct
from collections.abc import Iterator

import torch
from torch import Tensor

Cases = Iterator[tuple[str, dict]]


class Draw:
    """Seeded inputs of few digits, one stream per group of cases."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Return normal values of four decimals."""
        return short(torch.randn(shape, generator=self.generator) * scale)

    def logits(self, *shape: int, skewed: bool = False) -> Tensor:
        """Return gate logits without near ties within a token."""
        slope = torch.linspace(2, -2, shape[-1]) if skewed else torch.zeros(shape[-1])
        while True:
            logits = short(torch.randn(shape, generator=self.generator) + slope)
            if logits.sort(dim=-1).values.diff(dim=-1).min() > 1e-3:
                return logits


def name(options: dict, skewed: bool | None) -> str:
    """Return a case's name: its options in order; a switch by its key, where it is on."""
    words = []
    for key, value in options.items():
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(value if isinstance(value, str) else f"{key}={value}")
    return " ".join([*words, *([] if skewed is None else ["skewed" if skewed else "even"])])


def case(options: dict, inputs: dict, outputs: dict) -> dict:
    return {"options": options, "inputs": _plain(inputs), "outputs": _plain(outputs)}


def short(values: Tensor) -> Tensor:
    return (values.double() * 1e4).round().div(1e4).float()


def mask_of_padding(tokens: int) -> Tensor:
    """Return a mask whose last fifth of tokens, and one in the middle, are padding."""
    mask = torch.arange(tokens) >= tokens - tokens // 5
    mask[tokens // 2] = True
    return mask


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _plain(values: dict) -> dict:
    return {key: _list(value) for key, value in values.items()}


def _list(value: object) -> object:
    if not isinstance(value, Tensor):
        return value
    if value.dtype is torch.bool:
        return value.int().tolist()
    return _shortest(value.tolist()) if value.is_floating_point() else value.tolist()


def _shortest(value: list | float) -> list | float:
    """Return the numbers with the fewest digits that give back each float32 exactly."""
    if isinstance(value, list):
        return [_shortest(item) for item in value]
    digits = (float(f"{value:.{count}g}") for count in range(1, 10))
    return next(short for short in digits if struct.pack("f", short) == struct.pack("f", value))
