"""Packs tokenized documents into rows of one length, and writes rows to Arrow files."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.corpus.manifest import Shard

Tokens = npt.NDArray[np.int32]

_BATCH_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """``starts`` are the positions at which documents begin; ``domain`` is the domain of the first
    token.
    """

    tokens: Tokens
    starts: tuple[int, ...]
    domain: int


def pack(documents: Iterable[tuple[Tokens, int]], length: int) -> Iterator[Row]:
    """Concatenate (tokens, domain) documents and cut rows; an incomplete last row is dropped."""
    row = np.empty(length, dtype=np.int32)
    starts: list[int] = []
    filled = first_domain = 0
    for tokens, domain in documents:
        starts.append(filled)
        taken = 0
        while taken < len(tokens):
            if filled == 0:
                first_domain = domain
            count = min(length - filled, len(tokens) - taken)
            row[filled : filled + count] = tokens[taken : taken + count]
            taken, filled = taken + count, filled + count
            if filled == length:
                yield Row(row, tuple(starts), first_domain)
                row = np.empty(length, dtype=np.int32)
                starts.clear()
                filled = 0


def row_schema(length: int) -> pa.Schema:
    """Return the Arrow schema of a shard."""
    return pa.schema(
        [
            pa.field("tokens", pa.list_(pa.int32(), length), nullable=False),
            pa.field("starts", pa.list_(pa.int32()), nullable=False),
            pa.field("domain", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        ]
    )


@dataclass(frozen=True, slots=True)
class ShardWriter:
    """Writes rows as uncompressed Arrow files, so that a memory map needs no copy."""

    directory: Path
    name: str
    domains: Sequence[str]
    length: int
    rows_per_shard: int

    def write(self, rows: Iterable[Row]) -> tuple[tuple[Shard, ...], dict[int, int]]:
        """Write all rows; return the shards and the number of rows of each domain."""
        shards: list[Shard] = []
        rows_of_domain = dict.fromkeys(range(len(self.domains)), 0)
        source = iter(rows)
        for first in source:
            path = self.directory / f"{self.name}-{len(shards):05}.arrow"
            count = largest = 0
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self._schema) as file:
                for batch in self._batches(first, source):
                    for row in batch:
                        rows_of_domain[row.domain] += 1
                        largest = max(largest, int(row.tokens.max()))
                    file.write_batch(self._record_batch(batch))
                    count += len(batch)
            size, digest = path.stat().st_size, file_sha256(path)
            shards.append(Shard(path.name, count, size, digest, largest))
        return tuple(shards), rows_of_domain

    @property
    def _schema(self) -> pa.Schema:
        return row_schema(self.length)

    def _batches(self, first: Row, source: Iterator[Row]) -> Iterator[list[Row]]:
        """Yield one shard's rows, a few megabytes at a time."""
        per_batch = max(1, _BATCH_BYTES // (4 * self.length))
        batch, count = [first], 1
        while count < self.rows_per_shard and (row := next(source, None)) is not None:
            if len(batch) == per_batch:
                yield batch
                batch = []
            batch.append(row)
            count += 1
        yield batch

    def _record_batch(self, rows: list[Row]) -> pa.RecordBatch:
        tokens = pa.array(np.concatenate([row.tokens for row in rows]), pa.int32())
        starts = pa.array([row.starts for row in rows], pa.list_(pa.int32()))
        indices = pa.array([row.domain for row in rows], pa.int32())
        domain = pa.DictionaryArray.from_arrays(indices, pa.array(self.domains, pa.string()))
        columns = [pa.FixedSizeListArray.from_arrays(tokens, self.length), starts, domain]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
