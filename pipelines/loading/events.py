"""Server-sent events of the OpenAI API: what each of them says."""

import json
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Any

DONE = "[DONE]"


class BadEvent(ValueError):
    """An event that is none of the OpenAI API."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``token`` says that it is the arrival of a token, or of several at once.

    An event that only names the role, or only ends the answer, is no token. ``finished`` says that
    the answer is whole, ``done`` that the stream is. ``error`` is what the server said went wrong;
    ``counted`` are the tokens of prompt and answer.
    """

    token: bool = False
    text: str = ""
    finished: bool = False
    done: bool = False
    counted: tuple[int, int] | None = None
    error: str | None = None


async def data_of(lines: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Yield the data of each event; comments, which keep a connection open, are left out."""
    parts: list[str] = []
    async for raw in lines:
        line = raw.decode("utf-8").rstrip("\r\n")
        if line.startswith("data:"):
            parts.append(line[5:].removeprefix(" "))
        elif not line and parts:
            yield "\n".join(parts)
            parts = []
    if parts:
        yield "\n".join(parts)


def parse_event(data: str) -> Event:
    """Return what an event says; BadEvent if that cannot be read."""
    if data == DONE:
        return Event(done=True)
    try:
        table = json.loads(data)
        if "error" in table:
            return Event(error=_said(table["error"]))
        return _answer(table)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadEvent(f"{data[:100]!r}: {error}") from None


def _answer(table: dict[str, Any]) -> Event:
    usage = table.get("usage")
    counted = None
    if usage:
        counted = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    choices = table["choices"]
    if not choices:
        return Event(counted=counted)
    choice = choices[0]
    finished = choice.get("finish_reason") is not None
    delta = choice.get("delta")
    text = _text(choice if delta is None else delta)
    opens = delta is not None and not text and bool(delta.get("role"))
    return Event(bool(text) or not (finished or opens), text, finished, counted=counted)


def _text(part: dict[str, Any]) -> str:
    """Return the new text, of whichever kind: thinking and calls are generated tokens as well."""
    kinds = ("text", "reasoning_content", "reasoning", "content", "refusal")
    text = "".join(part.get(kind) or "" for kind in kinds)
    calls = (call.get("function") or {} for call in part.get("tool_calls") or ())
    return text + "".join(call.get("name") or call.get("arguments") or "" for call in calls)


def _said(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
