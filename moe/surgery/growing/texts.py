"""The tokens by which an expansion decides and by which it is measured."""

from dataclasses import dataclass

import torch
from torch import Tensor

from moe.config.model import ModelConfig
from moe.surgery.calibration import digest
from moe.surgery.growing.options import ExpandOptions
from moe.surgery.held_out import Text
from moe.surgery.seeds import generator

_ROWS, _LENGTH = 8, 128


@dataclass(frozen=True, slots=True)
class Texts:
    """Text of the training split, by which experts are chosen, and of the held-out split, on which
    the models before and after are compared.
    """

    calibration: Text
    held_out: Text

    def record(self) -> dict[str, object]:
        """Return the entry of the receipt."""
        tokens = self.calibration.tokens
        return {
            "source": self.calibration.source,
            "tokens": tokens.numel(),
            "sha256": digest(tokens),
        }


def calibration(config: ModelConfig, options: ExpandOptions, texts: Texts | None) -> Text:
    """Return the text by which experts are chosen; without text, random tokens."""
    if texts is not None:
        return texts.calibration
    length = min(_LENGTH, config.max_positions)
    source = generator(options.seed, "calibration")
    tokens = torch.randint(config.vocab_size, (_ROWS, length), generator=source)
    return Text("random tokens", tokens, tokens.roll(-1, dims=1))


def probe(config: ModelConfig, options: ExpandOptions) -> Tensor:
    """Return the random tokens [1, S] on which logits before and after are compared."""
    length = min(options.probe_tokens, config.max_positions)
    source = generator(options.seed, "probe")
    return torch.randint(config.vocab_size, (1, length), generator=source)
