"""Rotary position embedding, half-rotation (NeoX) layout.

Shapes: B batch, S sequence, H heads, E head size.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from moe.config.model import ModelConfig, RopeScaling


class Rotation(NamedTuple):
    """Cosines and sines of each position, both [S, E]; [B, 1, S, E] if positions differ by row."""

    cos: Tensor
    sin: Tensor


def rotation(config: ModelConfig, positions: Tensor) -> Rotation:
    """Return the rotation of each position; positions are integers, [S] or [B, 1, S]."""
    angles = positions[..., None].float() * _frequencies(config, positions.device)
    angles = torch.cat((angles, angles), dim=-1)
    return Rotation(angles.cos(), angles.sin())


def rotate(x_BHSE: Tensor, turn: Rotation) -> Tensor:
    """Rotate queries or keys by their positions."""
    first, second = x_BHSE.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BHSE * turn.cos + turned * turn.sin).to(x_BHSE.dtype)


def _frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    exponents = torch.arange(0, config.head_size, 2, device=device).float() / config.head_size
    plain = 1.0 / config.rope_theta**exponents
    if config.rope_scaling is None:
        return plain
    if config.rope_scaling.kind == "linear":
        return plain / config.rope_scaling.factor
    return _stretch_long_waves(plain, config.rope_scaling)


def _stretch_long_waves(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3: long wavelengths are stretched, short ones kept, and those in between
    interpolated.
    """
    waves = scaling.original_max_positions * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((waves - low) / (high - low)).clamp(0.0, 1.0)
    return keep * plain + (1.0 - keep) * plain / scaling.factor
