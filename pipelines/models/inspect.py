"""A look at the experts of a model, as a value that tables, files and pages are made of."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.surgery.look.look import LayerLook, Pair, closest, look
from moe.surgery.text import Text

PAIRS = 3
"""Most similar pairs of experts that are named for each layer."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Inspection:
    """The layers of a model with experts; ``source`` and ``tokens`` say on which text, if any."""

    model: str
    config: ModelConfig
    layers: tuple[LayerLook, ...]
    source: str | None
    tokens: int

    @property
    def table(self) -> dict[str, Any]:
        """All figures, for a JSON file."""
        return {
            "model": self.model,
            "experts": self.config.experts,
            "data": self.source,
            "tokens": self.tokens,
            "layers": {str(layer.layer): _figures(layer) for layer in self.layers},
        }


def inspect(checkpoint: Checkpoint, text: Text | None, progress: Progress) -> Inspection:
    """Look at every layer; ``progress`` is called with the layers done and their number."""
    layers: list[LayerLook] = []
    for found in look(checkpoint, None if text is None else text.tokens):
        layers.append(found)
        progress(len(layers), len(checkpoint.config.moe_layers))
    tokens = 0 if text is None else text.tokens.numel()
    source = None if text is None else text.source
    return Inspection(checkpoint.path.name, checkpoint.config, tuple(layers), source, tokens)


def similar_pairs(layer: LayerLook) -> list[Pair]:
    """Return the most similar pairs of a layer: by outputs where text was given, else by
    weights.
    """
    return closest(layer.cosine if layer.traffic is None else layer.traffic.cka, PAIRS)


def _figures(layer: LayerLook) -> dict[str, Any]:
    found: dict[str, Any] = {
        "similarity": layer.similarity,
        "cosine": layer.cosine,
        "closest_by_weights": closest(layer.cosine, PAIRS),
    }
    traffic = layer.traffic
    if traffic is not None:
        found |= asdict(traffic) | {
            "output_similarity": layer.output_similarity,
            "closest_by_outputs": closest(traffic.cka, PAIRS),
            "imbalance": traffic.imbalance,
            "dead": traffic.dead,
        }
    return found
