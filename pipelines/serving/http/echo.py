"""The prompt as the beginning of an answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.serving.generation.generation import Generation, TextToken
from pipelines.serving.http.logprobs import completion_logprobs, with_prompt
from pipelines.serving.protocol.replies import CompletionLogprobs
from pipelines.serving.text.text import Text


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as text, and the offset of each of its tokens in it."""

    text: str
    offsets: tuple[int, ...]

    def logprobs(
        self, text: Text, generation: Generation, answer: CompletionLogprobs, alternatives: bool
    ) -> CompletionLogprobs:
        """Return the log-probabilities of the prompt before those of the answer."""
        tokens = [
            TextToken(sampled, offset)
            for sampled, offset in zip(generation.scores, self.offsets[1:], strict=True)
        ]
        prompt = completion_logprobs(text, tokens, alternatives)
        return with_prompt(text, generation.job.prompt[0], prompt, answer)


def echo_of(text: Text, given: str | Sequence[int], tokens: Sequence[int]) -> Echo:
    """Return a prompt that was given as text or as tokens."""
    detokenizer, offsets, shown = text.detokenizer(), [], ""
    for token in tokens:
        offsets.append(len(shown))
        shown += detokenizer.push(token)
    shown += detokenizer.finish()
    said = given if isinstance(given, str) else shown
    return Echo(said, tuple(min(offset, len(said)) for offset in offsets))
