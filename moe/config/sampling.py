"""How the next token is chosen."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 is greedy. The draw at a position depends only on ``seed`` and the position.

    ``logprobs``: None computes no log-probability, 0 that of the chosen token, n also those of the
    n likeliest tokens. ``top_k`` 0 and ``min_p`` 0 keep every token. ``presence_penalty`` and
    ``frequency_penalty`` look at generated tokens, ``repetition_penalty`` at the prompt too.
    ``logit_bias`` has pairs of token and bias. ``stop_tokens`` are forbidden while fewer than
    ``min_tokens`` are generated.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    logprobs: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop_tokens: tuple[int, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the likeliest token of the model is all that is asked for."""
        return self.temperature == 0 and self.logprobs is None and not self.adjusts

    @property
    def adjusts(self) -> bool:
        """Whether the logits change before the choice."""
        return bool(
            self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1
            or self.logit_bias
            or (self.min_tokens and self.stop_tokens)
        )


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A chosen token with its natural-log probability, and the likeliest alternatives."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
