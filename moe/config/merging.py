"""What planning and products agree on where experts are merged for segments."""

from collections.abc import Iterable

from moe.config.model import ModelConfig
from moe.errors import ConfigError

MERGED_AT_ONCE = 2**24
"""Numbers of merged weights that are in memory at a time, 64 MB of float32; of one segment more, if
it has more.
"""

_GATE_BYTES = 4


def segments_at_once(numbers: int) -> int:
    """Return how many segments are merged together, each into so many numbers."""
    return max(1, MERGED_AT_ONCE // numbers)


def keeps_gates(config: ModelConfig, layer: int) -> bool:
    """Return whether a server keeps the gates of every position of a layer."""
    return config.moe is not None and config.moe.merged and config.has_experts(layer)


def gate_bytes(config: ModelConfig, layers: Iterable[int]) -> int:
    """Return the bytes of the gates of one position in some layers, as a server keeps them."""
    return _GATE_BYTES * config.experts * sum(keeps_gates(config, layer) for layer in layers)


def check_served(config: ModelConfig) -> None:
    """Raise ConfigError where a position depends on later ones: a server reads prompts in parts."""
    if config.moe is not None and config.moe.first_segment == "own":
        raise ConfigError(
            f"the first {config.moe.segment_tokens} tokens of this model are routed by all of them "
            '(first_segment = "own"), but a server reads a prompt in parts and keeps what prompts '
            'begin with; train with first_segment = "even" to serve it'
        )
