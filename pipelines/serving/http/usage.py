"""The token counts of one request, while its answers grow."""

from collections.abc import Sequence
from typing import TypeVar

from pipelines.serving.generation.generation import Generation
from pipelines.serving.protocol.replies import PromptDetails, Reply, Usage

R = TypeVar("R", bound=Reply)


class Counting:
    """Counts the tokens of prompts, each once, and of all answers to them."""

    def __init__(self, prompts: Sequence[Generation]) -> None:
        self._prompts = prompts
        self._generated: dict[int, int] = {}

    def count(self, number: int, generated: int) -> None:
        """Take the number of tokens that an answer has so far."""
        self._generated[number] = generated

    @property
    def usage(self) -> Usage:
        """The counts so far."""
        prompt = sum(len(generation.job.prompt) for generation in self._prompts)
        completion = sum(self._generated.values())
        cached = sum(generation.cached for generation in self._prompts)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptDetails(cached_tokens=cached),
        )


def counted(reply: R, usage: Usage | None) -> R:
    """Return a reply with its counts; where they are None, its JSON says nothing of them."""
    return reply if usage is None else reply.model_copy(update={"usage": usage})
