"""The steps from a base model to a directory: read from its card, or from its receipt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe.checkpoint.card.front_matter import front_matter
from moe.config.json_file import read_json
from moe.errors import CheckpointError

KEY = "raymoe"
"""The key of the front matter that only cards of raymoe have."""
RECEIPT = "receipt.json"
"""The name of what a conversion writes beside its output."""
_MOST = 120
"""Characters of an option's value."""


@dataclass(frozen=True, slots=True)
class Made:
    """One step from a base model: the method, its options, what was read; ``data`` has the SHA-256
    of texts by name, ``plan`` says in words on what it ran.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    plan: str = ""

    def table(self, sources: Sequence[Path]) -> dict[str, Any]:
        """Return plain values for a front matter, without what there is nothing to say of."""
        told = ((key, _plain(value)) for key, value in self.options.items())
        options = {key: value for key, value in told if value is not None}
        table = {
            "method": self.method,
            "source": [source.resolve().name for source in sources],
            "options": options,
            "data": dict(self.data),
            "plan": self.plan,
        }
        return {key: value for key, value in table.items() if value}


def steps_of(directory: Path) -> list[dict[str, Any]]:
    """Return the steps behind a model directory, the oldest first.

    A directory without a card of ours, but with a receipt, has one step.
    """
    own = front_matter(directory).get(KEY)
    if isinstance(own, dict):
        steps = own.get("steps")
        listed = steps if isinstance(steps, list) else []
        return [dict(each) for each in listed if isinstance(each, dict)]
    try:
        receipt = read_json(directory / RECEIPT)
    except CheckpointError:
        return []
    if not isinstance(receipt.get("method"), str):
        return []
    source = receipt.get("source")
    return [{"method": receipt["method"], **({"source": [str(source)]} if source else {})}]


def _plain(value: Any) -> bool | int | float | str | None:
    """Return a value that YAML holds as it is, of a long one the beginning; None for a table."""
    if value is None or isinstance(value, Mapping):
        return None
    if isinstance(value, bool | int | float):
        return value
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if not text:
        return None
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"
