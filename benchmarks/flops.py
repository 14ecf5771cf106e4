"""Model FLOPs of training: what utilisation counts."""

from moe.config.model import ModelConfig
from moe.config.tensors import active_parameters


def training_flops(config: ModelConfig, length: int) -> float:
    """Return the model FLOPs of one token of a sequence, forward and backward.

    Six for each parameter that the token uses, the lookup of the embedding left out, and causal
    attention over the sequence.
    """
    attention = 2 * config.layers * config.heads * config.head_size * length
    return 6.0 * _multiplied(config) + 3.0 * attention


def _multiplied(config: ModelConfig) -> int:
    """Return the parameters that a token is multiplied with: all it uses, the lookup left out."""
    lookup = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    return active_parameters(config) - lookup
