"""The bars of a block: those of every shape, and more of one shape by kind of processor."""

import pytest

from benchmarks.moe_block import SHAPES, missed_bars

SMOLLM2, OLMOE = SHAPES[0], SHAPES[2]


@pytest.mark.parametrize(
    ("kind", "tokens", "bars"),
    [
        ("avx512", 16, ["2.00 x best, bar 2.84"]),
        ("avx512", 512, ["2.00 x best, bar 2.16", "0.85 of our dense, bar 0.9"]),
        ("avx512", 4096, []),
        ("avx2", 16, []),
        ("avx2", 512, ["0.85 of our dense, bar 0.9"]),
        ("default", 512, []),
    ],
)
def test_a_kind_of_processor_has_bars_of_its_own(kind: str, tokens: int, bars: list[str]) -> None:
    row = {"what": "row", "x best": 2.0, "of dense": 1.0, "of our dense": 0.85}
    found = missed_bars(row, SMOLLM2, tokens, kind)
    assert [each.partition(": ")[2] for each in found] == bars
    assert missed_bars(row, OLMOE, tokens, kind) == []
