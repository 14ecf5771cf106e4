"""Selectors mean what Ray says they mean; what means nothing is refused, as Ray refuses it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray._private.label_utils import validate_label_key, validate_label_selector_value

from moe.errors import PlanError
from moe.planning.devices.labels import is_label_key, is_label_value, selector

texts = st.text("abZ09.-_!in(), /", max_size=14)


@pytest.mark.parametrize(
    ("text", "taken", "refused"),
    [
        ("a", ["a"], ["b", None, ""]),
        ("!a", ["b", None], ["a"]),
        ("in(a,b)", ["a", "b"], ["c", None]),
        ("in(a, b)", ["a", "b"], [" b", None]),
        ("!in(a,b)", ["c", None], ["a", "b"]),
        ("in", ["in"], ["a"]),
    ],
)
def test_a_selector_takes_and_refuses(
    text: str, taken: list[str | None], refused: list[str | None]
) -> None:
    meant = selector(text)
    assert all(meant.takes(value) for value in taken)
    assert not any(meant.takes(value) for value in refused)


@pytest.mark.parametrize(
    "text", ["", "!", "!!a", "in()", "in(a", "-a", "a b", "in(a,!b)", "a" * 64]
)
def test_a_selector_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="is invalid; write value, !value, in"):
        selector(text)


@given(texts)
def test_ray_takes_every_selector_and_key_that_we_do(text: str) -> None:
    try:
        selector(text)
    except PlanError:
        pass
    else:
        assert validate_label_selector_value(text) is None
    if is_label_key(text):
        assert validate_label_key(text) is None
    assert not is_label_value(text) or not text or selector(text).values == (text,)


def test_keys_may_have_a_domain() -> None:
    good = ["rack", "ray.io/node-id", "a.b-c/d_e"]
    bad = ["", "/", "a/", "/a", "A.b/c", "a//b", "-a"]
    assert all(map(is_label_key, good))
    assert not any(map(is_label_key, bad))
