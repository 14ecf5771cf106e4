"""A directory with a tokenizer and a chat template, and rows of conversations for it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests import vocabularies

MARKED = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""``vocabularies.TEMPLATE``, with marks."""

WITHOUT_REASONS = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{{ message.content if loop.last or message.role == 'user' else 'short' }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A template that writes an answer differently once another turn follows."""


def directory(path: Path, template: str | None = vocabularies.TEMPLATE) -> Path:
    """Write a tokenizer whose end token is </s>, token 1."""
    path.mkdir(parents=True, exist_ok=True)
    vocabularies.save(vocabularies.byte_level(), path, template)
    (path / "config.json").write_text(json.dumps({"eos_token_id": 1}))
    return path


def turns(*contents: str, system: str | None = None) -> list[dict[str, Any]]:
    """Return messages of user and assistant in turn."""
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return first + [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]


def write(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON lines; a text is a line as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path
