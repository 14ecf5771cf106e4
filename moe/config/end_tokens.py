"""The end tokens of a model, as its directory names them."""

from pathlib import Path

from moe.config.json_file import read_json

_FILES = ("generation_config.json", "config.json")
"""In the order in which ``transformers`` reads them for generation."""


def end_tokens(model: Path) -> tuple[int, ...]:
    """Return the end tokens of a model directory, the main one first; empty if it names none.

    ``generation_config.json`` is used if it names any, otherwise ``config.json``. Either file may
    be missing.
    """
    for name in _FILES:
        path = model / name
        found = read_json(path).get("eos_token_id") if path.is_file() else None
        numbers = found if isinstance(found, list) else [found]
        named = tuple(number for number in numbers if number is not None)
        if named:
            return named
    return ()
