"""Prompts from a file: JSON Lines with ``prompt`` or ``messages``, or a text in every line."""

import json
from pathlib import Path
from typing import Any

from moe.errors import DataError
from pipelines.corpus.text_file import read_lines
from pipelines.loading.prompt import Prompt

JSON_LINES = ".jsonl"


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a file in order; empty lines are none."""
    read = _from_json if path.suffix == JSON_LINES else _from_text
    lines = ((number, line.strip()) for number, line in enumerate(read_lines(path), start=1))
    prompts = [read(line, f"{path}, line {number}") for number, line in lines if line]
    if not prompts:
        raise DataError(f"{path} holds no prompt; write one a line")
    return prompts


def _from_text(line: str, where: str) -> Prompt:
    return Prompt(text=line)


def _from_json(line: str, where: str) -> Prompt:
    try:
        table = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from None
    if not isinstance(table, dict) or ("prompt" in table) == ("messages" in table):
        raise DataError(
            f"{where} must be an object with either prompt or messages; found {line[:60]}"
        )
    limit = table.get("max_tokens")
    if limit is not None and not _is_count(limit):
        raise DataError(f"{where} has max_tokens {limit!r}; give a whole number above 0")
    if "messages" in table:
        return Prompt(messages=_messages(table["messages"], where), max_tokens=limit)
    return _plain(table["prompt"], where, limit)


def _plain(prompt: Any, where: str, limit: int | None) -> Prompt:
    if isinstance(prompt, str):
        return Prompt(text=prompt, max_tokens=limit)
    if isinstance(prompt, list) and prompt and all(type(item) is int for item in prompt):
        return Prompt(ids=tuple(prompt), max_tokens=limit)
    raise DataError(f"{where} has a prompt that is neither a text nor a list of token ids")


def _messages(messages: Any, where: str) -> tuple[dict[str, Any], ...]:
    if isinstance(messages, list) and messages and all(isinstance(one, dict) for one in messages):
        return tuple(messages)
    raise DataError(f"{where} has messages that are not a list of objects with role and content")


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0
