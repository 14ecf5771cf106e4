"""Bytes as people read them."""

import pytest

from moe.sizes import size, two_sizes


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (41_200, "41.2 kB"),
        (41_234_567, "41.2 MB"),
        (1_907_000_000, "1.91 GB"),
        (12_000_000_000, "12.0 GB"),
        (1_234_567_000_000, "1,235 GB"),
    ],
)
def test_a_size_has_three_digits_and_a_unit(count: int, shown: str) -> None:
    assert size(count) == shown


def test_compared_sizes_show_their_difference() -> None:
    assert two_sizes(5 * 10**7, 4 * 10**7) == ("50.0 MB", "40.0 MB")
    assert two_sizes(12_000_100_000, 12_000_000_000) == ("12.0001 GB", "12.0000 GB")
    assert two_sizes(10**12 + 1, 10**12) == ("1,000,000,000,001 bytes", "1,000,000,000,000 bytes")
    assert two_sizes(7, 7) == ("7 bytes", "7 bytes")
