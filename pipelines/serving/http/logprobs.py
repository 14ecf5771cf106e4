"""Log-probabilities in the two forms of the protocol."""

from collections.abc import Iterable, Sequence

from moe.config.sampling import SampledToken
from pipelines.serving.generation.generation import TextToken
from pipelines.serving.protocol.replies import (
    ChatLogprobs,
    ChosenLogprob,
    CompletionLogprobs,
    TokenLogprob,
)
from pipelines.serving.text.text import Text

LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot represent."""


def completion_logprobs(
    text: Text, tokens: Iterable[TextToken], alternatives: bool, start: int = 0
) -> CompletionLogprobs:
    """Return parallel lists; a stop in the middle of a token keeps the complete token.

    The text of the answer begins ``start`` characters after that of the echo.
    """
    tokens = list(tokens)
    sampled = [token.sampled for token in tokens]
    return CompletionLogprobs(
        tokens=[text.token_text(token.token) for token in sampled],
        token_logprobs=[_finite(token.logprob) for token in sampled],
        top_logprobs=[_top(text, token) for token in sampled] if alternatives else None,
        text_offset=[start + token.offset for token in tokens],
    )


def with_prompt(
    text: Text, first: int, prompt: CompletionLogprobs, answer: CompletionLogprobs
) -> CompletionLogprobs:
    """Return the lists of a prompt and its answer as one; nothing is known of the first token."""
    tops = None
    if prompt.top_logprobs is not None and answer.top_logprobs is not None:
        tops = [None, *prompt.top_logprobs, *answer.top_logprobs]
    return CompletionLogprobs(
        tokens=[text.token_text(first), *prompt.tokens, *answer.tokens],
        token_logprobs=[None, *prompt.token_logprobs, *answer.token_logprobs],
        top_logprobs=tops,
        text_offset=[0, *prompt.text_offset, *answer.text_offset],
    )


def chat_logprobs(text: Text, tokens: Sequence[TextToken]) -> ChatLogprobs:
    """Return one entry for each token."""
    return ChatLogprobs(content=[_chosen(text, token.sampled) for token in tokens])


def _top(text: Text, sampled: SampledToken) -> dict[str, float]:
    """Return the likeliest tokens, and the chosen token if it is not among them."""
    pairs = (*sampled.top, (sampled.token, sampled.logprob))
    found: dict[str, float] = {}
    for token, logprob in pairs:
        found.setdefault(text.token_text(token), _finite(logprob))
    return found


def _chosen(text: Text, sampled: SampledToken) -> ChosenLogprob:
    return ChosenLogprob(
        token=text.token_text(sampled.token),
        logprob=_finite(sampled.logprob),
        bytes=list(text.token_bytes(sampled.token)),
        top_logprobs=[
            TokenLogprob(
                token=text.token_text(token),
                logprob=_finite(logprob),
                bytes=list(text.token_bytes(token)),
            )
            for token, logprob in sampled.top
        ],
    )


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)
