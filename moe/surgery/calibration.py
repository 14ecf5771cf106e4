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
        digest = hashlib.sha256(self.tokens.long().numpy().tobytes()).hexdigest()
        return {"source": self.source, "tokens": self.tokens.numel(), "sha256": digest}


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
    return random_calibration(config, options.seed)


def random_calibration(config: ModelConfig, seed: int) -> Calibration:
    """Return tokens for who has no text."""
    return Calibration("random tokens", _drawn(config, seed, "calibration", _ROWS, _LENGTH))


def probe(config: ModelConfig, seed: int, length: int) -> Tensor:
    """Return the random tokens [1, S] on which the logits of two models are compared."""
    return _drawn(config, seed, "probe", 1, length)


def _drawn(config: ModelConfig, seed: int, word: str, rows: int, length: int) -> Tensor:
    """Return tokens drawn uniformly from the vocabulary, no more than the model has positions."""
    size = (rows, min(length, config.max_positions))
    return torch.randint(config.vocab_size, size, generator=generator(seed, word))
