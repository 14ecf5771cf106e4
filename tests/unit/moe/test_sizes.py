"""Sizes in words: never 0.0 of something, and two that differ never look alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.sizes import size_text, unlike_texts


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (17, "17 bytes"),
        (1_234, "1.23 kB"),
        (98_300_000, "98.3 MB"),
        (250_000_000, "0.25 GB"),
        (3_500_000_000, "3.50 GB"),
        (10**18, "1,000,000,000.0 GB"),
    ],
)
def test_the_unit_shows_the_size(size: int, text: str) -> None:
    assert size_text(size) == text


@given(one=st.integers(0, 10**13), by=st.integers(1, 10**6))
def test_two_sizes_that_differ_do_not_look_alike(one: int, by: int) -> None:
    texts = unlike_texts(one, one + by)
    assert texts[0] != texts[1]


def test_sizes_far_apart_have_few_digits() -> None:
    assert unlike_texts(2 * 10**9, 10**6) == ("2.00 GB", "1.00 MB")
    assert unlike_texts(1_000_000_001, 10**9) == ("1.000000001 GB", "1.000000000 GB")
