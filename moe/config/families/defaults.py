"""The defaults of ``transformers`` for keys that a ``config.json`` omits."""

from moe.config.values import Table

_NULL_SPEAKS = frozenset(
    {
        "num_key_value_heads",
        "sliding_window",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    }
)
"""Keys for which null is a value: as many as heads, no window, no such token."""


def filled(table: Table, defaults: Table) -> Table:
    """Return a table with the defaults of its family; null counts as omitted in all other keys."""
    absent = {
        key: value
        for key, value in defaults.items()
        if key not in table or (table[key] is None and key not in _NULL_SPEAKS)
    }
    return {**table, **absent}
