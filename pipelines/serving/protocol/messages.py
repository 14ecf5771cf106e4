"""The messages of a conversation."""

from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.serving.protocol.fields import Content, UnicodeText
from pipelines.serving.protocol.options import Loose, fault
from pipelines.serving.protocol.tools import ToolCall

_ROLES = {"developer": "system", "function": "tool"}
"""Newer and older names of roles."""


class ChatMessage(Loose):
    """One message; what clients add to it beyond these fields is not read."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: UnicodeText | None = None
    tool_calls: list[ToolCall] = Field(default_factory=list)
    tool_call_id: UnicodeText | None = None
    reasoning_content: UnicodeText | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "ChatMessage":
        if self.content is None and self.role != "assistant":
            raise fault("is missing or null, which only an assistant's message may be", "content")
        if self.tool_calls and self.role != "assistant":
            raise fault("only an assistant's message may have calls", "tool_calls")
        return self

    def as_template_input(self) -> dict[str, Any]:
        """Return the message in the form that chat templates read."""
        message: dict[str, Any] = {"role": _ROLES.get(self.role, self.role)}
        message["content"] = self.content or ""
        for name in ("name", "tool_call_id", "reasoning_content"):
            if getattr(self, name) is not None:
                message[name] = getattr(self, name)
        if self.tool_calls:
            message["tool_calls"] = [call.as_template_input() for call in self.tool_calls]
        return message
