"""What one request asks: a text, token ids or a conversation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe.errors import ConfigError

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, token ids, or messages; ``max_tokens`` is for this prompt alone."""

    text: str | None = None
    ids: tuple[int, ...] | None = None
    messages: tuple[Message, ...] | None = None
    max_tokens: int | None = None

    def completion(self) -> str | list[int]:
        """Return the ``prompt`` of a request for a completion."""
        if self.messages is not None:
            raise ConfigError(
                "the prompts are conversations, which /v1/completions does not take; add --chat, "
                "or give lines with a prompt"
            )
        return list(self.ids) if self.ids is not None else self.text or ""

    def conversation(self) -> list[Message]:
        """Return the ``messages`` of a request for a chat."""
        if self.ids is not None:
            raise ConfigError(
                "the prompts are token ids, which a chat does not take; leave --chat out, or give "
                "--tokenizer DIR for prompts as text"
            )
        if self.messages is not None:
            return list(self.messages)
        return [{"role": "user", "content": self.text}]
