"""How the next token is chosen."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 is greedy. The draw at a position depends only on ``seed`` and the position.

    ``logprobs`` is the number of likeliest tokens to report beside the chosen token; None: no
    log-probability is computed.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A chosen token with its natural-log probability, and the likeliest alternatives."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
