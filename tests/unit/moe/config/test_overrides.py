"""Values as people write them, and the nearest of the known words."""

from typing import Any

import pytest

from moe.config.overrides import fault, hint, value_of


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        (".001", 0.001),
        ("-2.", -2.0),
        (".5e-2", 0.005),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"3"', "3"),
        ("bf16", "bf16"),
        ("a/b.c", "a/b.c"),
        (".", "."),
        ("..", ".."),
        ("", ""),
    ],
)
def test_values_are_toml_or_bare_text(written: str, value: Any) -> None:
    found = value_of(written)
    assert (type(found), found) == (type(value), value)


def test_the_nearest_word_is_offered_or_all() -> None:
    assert hint("stpes", ["path", "steps"]) == "did you mean steps?"
    assert hint("zzz", ["path", "steps"]) == "known: path, steps"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("2", "a.b: too small; found '2'"),
        (None, "a.b: too small; found None"),
        ({"c": 1}, "a.b: too small"),
    ],
)
def test_a_fault_shows_what_was_found_but_no_table(found: Any, told: str) -> None:
    assert fault("a.b", {"msg": "Value error, too small", "input": found}) == told
