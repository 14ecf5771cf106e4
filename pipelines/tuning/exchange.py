"""A conversation in the form that chat templates read, and which of its answers may count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ValidationError

from pipelines.serving.protocol.messages import ChatMessage
from pipelines.serving.protocol.tools import Tool

Message = Mapping[str, Any]

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""Roles of ShareGPT and its descendants."""

_KNOWN = ("system", "developer", "user", "assistant", "tool", "function")


class OddRow(Exception):
    """A row that cannot be used; the text is the reason, without what differs from row to row."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Messages, tools, and the numbers of the messages that are answers which may count."""

    messages: tuple[Message, ...]
    answers: tuple[int, ...]
    tools: tuple[Message, ...] = ()


def exchange(raw: Sequence[Any], prompt: int = 0, tools: Sequence[Any] = ()) -> Exchange:
    """Check messages and bring them into one form; no answer among the first ``prompt`` counts.

    An answer with the weight 0 does not count (as in OpenAI's fine-tuning). Raises OddRow.
    """
    if not raw:
        odd("no messages")
    found = [_message(each) for each in raw]
    answers = [
        number
        for number, (message, weight) in enumerate(found)
        if message["role"] == "assistant" and number >= prompt and weight
    ]
    if not answers:
        odd("no answer that counts")
    if any(_is_empty(found[number][0]) for number in answers):
        odd("an answer is empty")
    if any(message["role"] == "user" and _is_empty(message) for message, _ in found):
        odd("a message of the user is empty")
    return Exchange(
        tuple(message for message, _ in found),
        tuple(answers),
        tuple(_tool(each) for each in tools),
    )


def odd(reason: str) -> NoReturn:
    """Leave a row out."""
    raise OddRow(reason)


def text_of(value: Any, name: str) -> str:
    """Return a text; raise OddRow where a field holds something else."""
    if not isinstance(value, str):
        odd(f"{name} is {'missing' if value is None else 'no text'}")
    return value


def _message(raw: Any) -> tuple[Message, bool]:
    """Return a message in the form of templates, and whether it may count."""
    if not isinstance(raw, dict):
        odd("a message is no object")
    role = raw.get("role", raw.get("from"))
    content = raw.get("content", raw.get("value"))
    if not isinstance(role, str):
        odd("a message has no role")
    role = ROLES.get(role, role)
    if role not in _KNOWN:
        odd(f"role {role!r:.40} is not known")
    weight = raw.get("weight", 1)
    if weight not in (0, 1):
        odd("a weight is neither 0 nor 1")
    try:
        message = ChatMessage.model_validate({**raw, "role": role, "content": content})
    except ValidationError as error:
        odd(f"{_field(error)}{error.errors()[0]['msg']}")
    return message.as_template_input(), bool(weight)


def _tool(raw: Any) -> Message:
    try:
        return Tool.model_validate(raw).as_template_input()
    except ValidationError as error:
        odd(f"tools: {error.errors()[0]['msg']}")


def _is_empty(message: Message) -> bool:
    said = message["content"].strip() or message.get("tool_calls")
    return not said and not message.get("reasoning_content", "").strip()


def _field(error: ValidationError) -> str:
    """Return the name of the field that is wrong, before a colon."""
    found = error.errors()[0]
    inner = (found.get("ctx") or {}).get("param")
    names = [str(each) for each in found["loc"] if isinstance(each, str)]
    names += [] if inner is None else [str(inner)]
    return f"{names[0]}: " if names else ""
