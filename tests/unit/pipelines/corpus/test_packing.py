import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.packing import ShardWriter, pack

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
    rows = list(pack(numbered(sizes), length))
    assert len(rows) == sum(sizes) // length
    flat = [int(token) for row in rows for token in row.tokens]
    assert flat == list(range(len(rows) * length))


@given(lengths, st.integers(2, 12))
def test_starts_and_domains_are_those_of_the_documents(sizes: list[int], length: int) -> None:
    documents = numbered(sizes)
    first_tokens = {int(tokens[0]) for tokens, _ in documents}
    for row in pack(documents, length):
        assert {int(row.tokens[start]) for start in row.starts} == first_tokens & set(row.tokens)
        assert list(row.starts) == sorted(row.starts)
        owner = [domain for tokens, domain in documents if row.tokens[0] in tokens]
        assert owner == [row.domain]


@given(lengths, st.integers(1, 5))
def test_shards_hold_all_rows_in_order(sizes: list[int], rows_per_shard: int) -> None:
    rows = list(pack(numbered(sizes), 4))
    with tempfile.TemporaryDirectory() as directory:
        writer = ShardWriter(Path(directory), "train", ["a", "b", "c"], 4, rows_per_shard)
        shards, rows_of_domain = writer.write(rows)
        tables = [pa.ipc.open_file(Path(directory) / shard.name).read_all() for shard in shards]
    assert [shard.rows for shard in shards] == [table.num_rows for table in tables]
    assert all(shard.rows == rows_per_shard for shard in shards[:-1])
    assert sum(rows_of_domain.values()) == len(rows)
    found = [row for table in tables for row in table.to_pylist()]
    assert found == [
        {"tokens": row.tokens.tolist(), "starts": list(row.starts), "domain": "abc"[row.domain]}
        for row in rows
    ]
