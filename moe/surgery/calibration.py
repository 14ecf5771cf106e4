"""Tokens with which a method measures the activity of each column of a feed-forward."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from moe.config.model import ModelConfig
from moe.errors import ConfigError
from moe.surgery.options import UpcycleOptions
from moe.surgery.seeds import generator

_ROWS, _LENGTH = 8, 128


@dataclass(frozen=True, slots=True)
class Calibration:
    """Tokens [sequences, positions] and where they came from."""

    source: str
    tokens: Tensor

    def record(self) -> dict[str, object]:
        """Return the entry of the receipt."""
        sha256 = digest(self.tokens)
        return {"source": self.source, "tokens": self.tokens.numel(), "sha256": sha256}


def digest(tokens: Tensor) -> str:
    """Return the SHA-256 of token numbers, as 64-bit integers."""
    return hashlib.sha256(tokens.long().numpy().tobytes()).hexdigest()


def calibrated(
    config: ModelConfig, options: UpcycleOptions, given: Calibration | None
) -> Calibration | None:
    """Return the tokens with which a method measures; None if it measures nothing.

    Without text, they are drawn uniformly from the vocabulary.
    """
    if not options.method.measures:
        if given is not None:
            raise ConfigError(
                f"the method {options.method.name} measures nothing, calibration tokens would "
                "have no effect; remove them, or choose split or shared by activation"
            )
        return None
    if given is not None:
        return given
    length = min(_LENGTH, config.max_positions)
    source = generator(options.seed, "calibration")
    drawn = torch.randint(config.vocab_size, (_ROWS, length), generator=source)
    return Calibration("random tokens", drawn)
