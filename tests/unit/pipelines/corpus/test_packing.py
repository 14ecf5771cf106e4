import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.fitting import NOTHING_COUNTS, TOO_LONG, Fitting
from pipelines.corpus.manifest import Truncation
from pipelines.corpus.packing import cut, packed
from pipelines.corpus.shard_writer import ShardWriter
from pipelines.corpus.units import Encoded

lengths = st.lists(st.integers(1, 30), min_size=1, max_size=20)


def numbered(sizes: list[int]) -> list[tuple[np.ndarray, int]]:
    """Documents of consecutive numbers, so that every token says where it was; domains 0 to 2."""
    ends = np.cumsum(sizes)
    return [
        (np.arange(end - size, end, dtype=np.int32), number % 3)
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


@given(lengths, st.integers(2, 12))
def test_only_the_tail_is_lost(sizes: list[int], length: int) -> None:
    rows = list(cut(numbered(sizes), length))
    assert len(rows) == sum(sizes) // length
    flat = [int(token) for row in rows for token in row.tokens]
    assert flat == list(range(len(rows) * length))


@given(lengths, st.integers(2, 12))
def test_starts_and_domains_are_those_of_the_documents(sizes: list[int], length: int) -> None:
    documents = numbered(sizes)
    first_tokens = {int(tokens[0]) for tokens, _ in documents}
    for row in cut(documents, length):
        assert {int(row.tokens[start]) for start in row.starts} == first_tokens & set(row.tokens)
        assert list(row.starts) == sorted(row.starts)
        owner = [domain for tokens, domain in documents if row.tokens[0] in tokens]
        assert owner == [row.domain]


@given(lengths, st.integers(1, 5))
def test_shards_hold_all_rows_in_order(sizes: list[int], rows_per_shard: int) -> None:
    rows = list(cut(numbered(sizes), 4))
    with tempfile.TemporaryDirectory() as directory:
        writer = ShardWriter(Path(directory), "train", ["a", "b", "c"], 4, rows_per_shard)
        written = writer.write(rows)
        shards, rows_of_domain = written.shards, written.rows_of_domain
        tables = [pa.ipc.open_file(Path(directory) / shard.name).read_all() for shard in shards]
    assert [shard.rows for shard in shards] == [table.num_rows for table in tables]
    assert all(shard.rows == rows_per_shard for shard in shards[:-1])
    assert sum(rows_of_domain.values()) == len(rows)
    found = [row for table in tables for row in table.to_pylist()]
    assert found == [
        {"tokens": row.tokens.tolist(), "starts": list(row.starts), "domain": "abc"[row.domain]}
        for row in rows
    ]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(12, 20))
def test_whole_documents_fill_rows(sizes: list[int], length: int) -> None:
    rows = packed(sizes, length)
    assert sorted(number for row in rows for number in row) == list(range(len(sizes)))
    filled = [sum(sizes[number] for number in row) for row in rows]
    assert max(filled) <= length
    # No document of a row would have fitted into a row that was there before it.
    for place, row in enumerate(rows):
        first = sizes[row[0]]
        before = [sum(sizes[n] for n in other if sizes[n] >= first) for other in rows[:place]]
        assert all(own + first > length for own in before)


def document(size: int, counted: list[int]) -> Encoded:
    marks = np.zeros(size, dtype=np.uint8)
    marks[counted] = 1
    return Encoded(np.arange(size, dtype=np.int32), marks)


@pytest.mark.parametrize(
    ("truncation", "sizes", "kept"),
    [
        ("right", [9], [(0, 9)]),
        ("right", [12], [(0, 10)]),
        ("left", [12], [(2, 12)]),
        ("drop", [10], [(0, 10)]),
        ("drop", [11], TOO_LONG),
        ("right", [3, 12], [(0, 3), (0, 7)]),
        ("left", [12, 3], [(5, 12), (0, 3)]),
        ("right", [8, 9], [(0, 5), (0, 5)]),
        ("drop", [6, 6], TOO_LONG),
    ],
)
def test_what_is_too_long_is_cut(
    truncation: Truncation, sizes: list[int], kept: list[tuple[int, int]] | str
) -> None:
    fitting = Fitting(10, truncation)
    found = fitting.fit([document(size, list(range(size))) for size in sizes])
    if isinstance(kept, str):
        assert (found, fitting.truncated) == (kept, 0)
        return
    assert not isinstance(found, str)
    assert [each.tokens.tolist() for each in found] == [list(range(*own)) for own in kept]
    assert fitting.truncated == (sum(sizes) > 10)
    assert fitting.lost == sum(sizes) - sum(stop - start for start, stop in kept)


def test_an_answer_that_is_cut_off_leaves_nothing_that_counts() -> None:
    assert Fitting(4, "right").fit([document(6, [4, 5])]) == NOTHING_COUNTS
    assert not isinstance(Fitting(4, "left").fit([document(6, [4, 5])]), str)
    # The first token of a document has none before it that could predict it.
    assert Fitting(4, "left").fit([document(6, [2])]) == NOTHING_COUNTS
    assert Fitting(4, "left").fit([document(3, [1]), document(3, [0])]) == NOTHING_COUNTS
