"""A quick measuring of a large model: a narrower stand-in whose parts take fractions of a second.

Measured over counted time of a part hardly depends on how many rows a vocabulary has, as long as
no cache holds them, or on how many experts a large block has. So what is cut is only what a plan
counts exactly.
"""

from dataclasses import replace

from actors.profiling.measure import Measuring
from moe.config.model import ModelConfig, MoeConfig

SECONDS = 0.3
"""Seconds that each part runs at each size, once warm; of five parts, about two in all."""

_VOCABULARY_NUMBERS = 2**24
"""Numbers of an embedding or a head, 67 MB in float32: more than caches hold, as in training."""

_EXPERT_NUMBERS = 2**26
"""Numbers of all experts of a block, 0.27 GB in float32."""


def quick(
    config: ModelConfig,
    sequence_length: int,
    micro_batches: tuple[int, ...],
    ranks: int,
    threads: int,
    precision: str,
) -> Measuring:
    """Return what to measure of a model in about two seconds, on so many ranks at once."""
    return Measuring(
        stand_in(config),
        sequence_length,
        micro_batches,
        ranks,
        threads,
        SECONDS,
        precision,
        quick=True,
    )


def stand_in(config: ModelConfig) -> ModelConfig:
    """Return the model with fewer rows of its vocabulary and, where they are large, fewer experts.

    As many as a token chooses are left, so that products are of the model's own widths.
    """
    rows = -(-_VOCABULARY_NUMBERS // config.hidden_size)
    moe = None if config.moe is None else _fewer(config.hidden_size, config.moe)
    return replace(config, vocab_size=min(config.vocab_size, rows), moe=moe)


def _fewer(hidden_size: int, moe: MoeConfig) -> MoeConfig:
    each = 3 * hidden_size * moe.expert_size
    most = max(_EXPERT_NUMBERS // each, moe.top_k, 1)
    return moe if moe.experts <= most else replace(moe, experts=most, groups=1, top_groups=1)
