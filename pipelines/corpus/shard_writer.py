"""Writes rows of tokens to Arrow files."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.corpus.manifest import Packing, Shard
from pipelines.corpus.packing import Row

_BATCH_BYTES = 4 << 20


def row_schema(length: int, packing: Packing) -> pa.Schema:
    """Return the Arrow schema of a shard."""
    whole = [
        pa.field("counted", pa.list_(pa.uint8(), length), nullable=False),
        pa.field("used", pa.int32(), nullable=False),
    ]
    return pa.schema(
        [
            pa.field("tokens", pa.list_(pa.int32(), length), nullable=False),
            pa.field("starts", pa.list_(pa.int32()), nullable=False),
            pa.field("domain", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            *([] if packing == "cut" else whole),
        ]
    )


@dataclass(frozen=True, slots=True)
class Written:
    """The shards of a split, the rows of each domain, and the labels that count; None: all do."""

    shards: tuple[Shard, ...]
    rows_of_domain: dict[int, int]
    counted: int | None


@dataclass(frozen=True, slots=True)
class ShardWriter:
    """Writes rows as uncompressed Arrow files, so that a memory map needs no copy."""

    directory: Path
    name: str
    domains: Sequence[str]
    length: int
    rows_per_shard: int
    packing: Packing = "cut"

    def write(self, rows: Iterable[Row]) -> Written:
        """Write all rows."""
        shards: list[Shard] = []
        rows_of_domain = dict.fromkeys(range(len(self.domains)), 0)
        counted = 0
        source = iter(rows)
        for first in source:
            path = self.directory / f"{self.name}-{len(shards):05}.arrow"
            count = largest = 0
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self._schema) as file:
                for batch in self._batches(first, source):
                    for row in batch:
                        rows_of_domain[row.domain] += 1
                        largest = max(largest, int(row.tokens.max()))
                        counted += _labels(row)
                    file.write_batch(self._record_batch(batch))
                    count += len(batch)
            size, digest = path.stat().st_size, file_sha256(path)
            shards.append(Shard(path.name, count, size, digest, largest))
        return Written(tuple(shards), rows_of_domain, None if self.packing == "cut" else counted)

    @property
    def _schema(self) -> pa.Schema:
        return row_schema(self.length, self.packing)

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
        starts = pa.array([row.starts for row in rows], pa.list_(pa.int32()))
        indices = pa.array([row.domain for row in rows], pa.int32())
        domain = pa.DictionaryArray.from_arrays(indices, pa.array(self.domains, pa.string()))
        columns = [self._fixed([row.tokens for row in rows]), starts, domain]
        if self.packing != "cut":
            columns.append(self._fixed([row.counted for row in rows if row.counted is not None]))
            columns.append(pa.array([row.used for row in rows], pa.int32()))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _fixed(self, parts: Sequence[npt.NDArray[np.generic]]) -> pa.FixedSizeListArray:
        """Return one list of the length of a row for each part."""
        return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(parts)), self.length)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _labels(row: Row) -> int:
    """Return the labels of a row that count: no first token of a document has one."""
    if row.counted is None:
        return 0
    return int(row.counted.sum() - row.counted[[*row.starts]].sum())
