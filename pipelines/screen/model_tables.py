"""Receipts as tables on the terminal."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from rich.table import Table
from rich.text import Text

from moe.config.model import MoeConfig
from moe.surgery.methods import METHODS
from moe.surgery.options import UpcycleOptions
from moe.surgery.receipt import Receipt


def receipt_table(receipt: Receipt) -> Table:
    """Return a table of an upcycling and the distance of its logits from the dense model's
    logits.
    """
    table = Table(title="receipt", show_header=False)
    distance = receipt.distance
    table.add_row("method", receipt.method)
    for name, value in chosen(receipt).items():
        table.add_row(name.replace("_", " "), value)
    table.add_row(
        "largest logit difference",
        f"{distance.max_absolute:.1e} ({distance.relative:.1e} relative)",
    )
    table.add_row("same first choice", f"{distance.same_argmax:.0%} of {distance.tokens} tokens")
    for note in receipt.notes:
        table.add_row("caution", Text(note))
    return table


def chosen(receipt: Receipt) -> dict[str, str]:
    """Return the seed, the options of the method, and the other options that differ from their
    defaults.
    """
    own = {field.name for field in fields(METHODS[receipt.method])}
    said = {}
    for name, value in receipt.options.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            said[name] = _spoken(value, MoeConfig if name == "architecture" else None)
        elif name == "seed" or name in own or _differs(UpcycleOptions, name, value):
            said[name] = str(value)
    return said


def _spoken(values: Mapping[str, object], kind: type | None) -> str:
    """Return a table of a receipt as one line; for a known kind, only values that are not
    defaults.
    """
    said = {
        key.replace("_", " "): value
        for key, value in values.items()
        if value is not None and (kind is None or _differs(kind, key, value))
    }
    return ", ".join(f"{key} {value}" for key, value in said.items())


def _differs(kind: Any, name: str, value: object) -> bool:
    """Return whether a value differs from the default of a dataclass; 1, 1.0 and True differ."""
    default = {field.name: field.default for field in fields(kind)}.get(name, MISSING)
    return type(value) is not type(default) or value != default
