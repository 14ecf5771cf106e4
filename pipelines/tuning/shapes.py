"""The shapes in which people keep rows for fine-tuning, and the conversations in them."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from moe.config.run import DataKind
from moe.errors import DataError
from pipelines.tuning.exchange import Exchange, exchange, odd, text_of

Shape = Literal["messages", "conversations", "prompt-completion", "instruction", "preference"]

_COLUMNS: Mapping[Shape, tuple[tuple[str, ...], ...]] = {
    "preference": (("chosen", "rejected"),),
    "messages": (("messages",),),
    "conversations": (("conversations",), ("conversation",)),
    "instruction": (
        ("instruction", "output"),
        ("instruction", "response"),
        ("instruction", "completion"),
    ),
    "prompt-completion": (
        ("prompt", "completion"),
        ("prompt", "response"),
        ("question", "answer"),
        ("question", "response"),
    ),
}
"""The columns of each shape, in the order in which shapes are looked for."""

SHAPES: tuple[Shape, ...] = tuple(_COLUMNS)

OF_KIND: Mapping[DataKind, tuple[Shape, ...]] = {
    "chat": ("messages", "conversations", "instruction", "prompt-completion"),
    "instruction": ("instruction", "prompt-completion"),
    "preference": ("preference",),
}
"""The shapes that make rows of a kind."""


def recognised(fields: Mapping[str, Any], kind: DataKind) -> Shape:
    """Return the shape that columns have; DataError if they have none that suits the kind."""
    found = [shape for shape in SHAPES if _columns(shape, fields) is not None]
    suitable = [shape for shape in found if shape in OF_KIND[kind]]
    if suitable:
        return suitable[0]
    columns = ", ".join(fields) or "none"
    if found:
        kinds = " or ".join(k for k, shapes in OF_KIND.items() if found[0] in shapes)
        raise DataError(
            f"the columns ({columns}) are those of {found[0]} rows, which --kind {kind} does not "
            f"take; give --kind {kinds}"
        )
    wanted = "; ".join(
        " and ".join(names) for shape in OF_KIND[kind] for names in _COLUMNS[shape][:1]
    )
    raise DataError(
        f"no columns of --kind {kind} among {columns}; it takes {wanted}; rename the "
        "columns, or name the files that hold rows alone"
    )


def exchanges(fields: Mapping[str, Any], shape: Shape) -> tuple[Exchange, ...]:
    """Return the conversation of a row, or the two of a pair, the chosen one first.

    Raises OddRow.
    """
    names = _columns(shape, fields)
    if names is None:
        odd(f"no columns {' and '.join(_COLUMNS[shape][0])}")
    return _READERS[shape](fields, names)


def _columns(shape: Shape, fields: Mapping[str, Any]) -> tuple[str, ...] | None:
    return next((names for names in _COLUMNS[shape] if all(n in fields for n in names)), None)


def _messages(fields: Mapping[str, Any], names: Sequence[str]) -> tuple[Exchange, ...]:
    (name,) = names
    messages = _list(fields[name], name)
    return (_with_system(messages, fields),)


def _with_system(messages: Sequence[Any], fields: Mapping[str, Any], prompt: int = 0) -> Exchange:
    """Return a conversation with the system message and tools that have columns of their own."""
    first = messages[0] if messages else None
    led = isinstance(first, dict) and first.get("role", first.get("from")) in (
        "system",
        "developer",
    )
    system = fields.get("system") or fields.get("system_prompt")
    if system and not led:
        messages = [{"role": "system", "content": system}, *messages]
        prompt += 1
    tools = fields.get("tools") or []
    if isinstance(tools, str):
        tools = _parsed(tools)
    return exchange(messages, prompt, _list(tools, "tools"))


def _instruction(fields: Mapping[str, Any], names: Sequence[str]) -> tuple[Exchange, ...]:
    asked, said = (text_of(fields[name], name) for name in names)
    more = next((fields[name] for name in ("input", "context") if fields.get(name)), "")
    asked = "\n".join(filter(None, (asked, text_of(more, "input"))))
    messages = []
    for pair in _list(fields.get("history") or [], "history"):
        if not isinstance(pair, list) or len(pair) != 2:
            odd("history is no list of pairs")
        messages += _turn(*(text_of(each, "history") for each in pair))
    before = len(messages)
    return (_with_system([*messages, *_turn(asked, said)], fields, before),)


def _prompt_completion(fields: Mapping[str, Any], names: Sequence[str]) -> tuple[Exchange, ...]:
    asked, said = (fields[name] for name in names)
    before = _side(asked, "user", names[0])
    return (_with_system([*before, *_side(said, "assistant", names[1])], fields, len(before)),)


def _preference(fields: Mapping[str, Any], names: Sequence[str]) -> tuple[Exchange, ...]:
    prompt, said = fields.get("prompt", fields.get("question")), [fields[name] for name in names]
    if prompt is None and all(isinstance(each, str) for each in said):
        prompt, said = _parted(*said)
    sides = [_side(each, "assistant", name) for each, name in zip(said, names, strict=True)]
    if sides[0] == sides[1]:
        odd("the chosen and the rejected answer are the same")
    if prompt is None:
        shared = _alike(*sides)
        if not shared:
            odd("no prompt: no column of it, and the answers begin with different messages")
    else:
        asked = _side(prompt, "user", "prompt")
        if any(_asks(side) for side in sides):
            shared = _alike(*sides)
            if any(each not in sides[0][:shared] for each in asked):
                odd("the answers are conversations that do not begin with the prompt")
        else:
            shared, sides = len(asked), [[*asked, *side] for side in sides]
    return tuple(_with_system(side, fields, shared) for side in sides)


def _side(value: Any, role: str, name: str) -> list[Any]:
    """Return messages as they are, a text as one message."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        return [value]
    return _list(value, name)


def _parted(one: str, other: str) -> tuple[str, list[str]]:
    """Return the common beginning of two texts, up to a blank, and what follows in each."""
    alike = _alike(one, other)
    end = max(one.rfind(blank, 0, alike) for blank in " \n")
    if end < 1:
        odd("no prompt: no column of it, and the answers have no common beginning")
    return one[:end], [one[end:], other[end:]]


def _alike(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many messages, or characters, two begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (ours, theirs) in pairs if ours != theirs), min(len(one), len(other)))


def _asks(side: Sequence[Any]) -> bool:
    """Tell whether an answer is a conversation, with what was asked."""
    return any(isinstance(each, dict) and each.get("role") == "user" for each in side)


def _turn(asked: str, said: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        odd(f"{name} is {'missing' if value is None else 'no list'}")
    return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        odd("tools are not JSON")


_READERS: Mapping[Shape, Callable[[Mapping[str, Any], Sequence[str]], tuple[Exchange, ...]]] = {
    "messages": _messages,
    "conversations": _messages,
    "instruction": _instruction,
    "prompt-completion": _prompt_completion,
    "preference": _preference,
}
