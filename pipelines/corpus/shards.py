"""Memory-mapped token shards: rows by number, with labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moe.errors import DataError
from pipelines.corpus.manifest import (
    SPLITS,
    Shard,
    Split,
    SplitManifest,
    TokenManifest,
    read_manifest,
)
from pipelines.corpus.shard_writer import file_sha256, row_schema
from pipelines.corpus.units import Tokens

PADDING = -1
"""Number of the document of padding."""

IGNORED = -100
"""Label of a position that has nothing to predict; torch's cross entropy skips it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows by length. ``labels[t]`` is ``tokens[t + 1]``.

    A label is IGNORED at the last position, where the next token begins another document, and where
    it does not count. ``documents`` has the number of the document of each position, from 0 in each
    row, and PADDING; None for rows that were cut out of a text, whose documents see each other. In
    rows of pairs, document 2k is the chosen one of pair k, and 2k + 1 the rejected one.
    """

    tokens: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    """Views of one Arrow record batch; nothing here is a copy. Rows that were cut have no
    ``counted`` and ``used``.
    """

    tokens: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    starts_ends: npt.NDArray[np.int32]
    domains: npt.NDArray[np.int32]
    counted: npt.NDArray[np.uint8] | None
    used: npt.NDArray[np.int32] | None

    def starts_of(self, row: int) -> npt.NDArray[np.int32]:
        return self.starts[self.starts_ends[row] : self.starts_ends[row + 1]]


class TokenShards:
    """One split of a directory that ``tokenize`` wrote."""

    def __init__(self, path: Path, split: Split, manifest: TokenManifest) -> None:
        """Map every shard of the split; callers normally use ``open``."""
        self.manifest = manifest
        self.split = split
        self._path = path
        self._blocks: list[_Block] = []
        self._domain_names: list[str] = []
        for shard in self.counts.shards:
            self._map(shard)
        ends = np.cumsum([len(block.tokens) for block in self._blocks])
        self._first_rows = np.concatenate(([0], ends[:-1]))

    @classmethod
    def open(cls, path: Path, split: Split) -> "TokenShards":
        """Open one split; checks manifest, schema and sizes. ``verify`` checks the contents."""
        if split not in SPLITS:
            raise DataError(f"no split is called {split!r}; choose one of {', '.join(SPLITS)}")
        return cls(path, split, read_manifest(path))

    def __len__(self) -> int:
        return self.counts.rows

    @property
    def counts(self) -> SplitManifest:
        """The manifest's counts of this split."""
        return self.manifest.split(self.split)

    @property
    def sequence_length(self) -> int:
        """Tokens in a row."""
        return self.manifest.sequence_length

    @property
    def vocab_size(self) -> int:
        """Number of token ids of the tokenizer."""
        return self.manifest.vocab_size

    def batch(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Batch:
        """Return the rows in the order of the request."""
        tokens = np.empty((len(rows), self.sequence_length), dtype=np.int32)
        labels = np.full(tokens.shape, IGNORED, dtype=np.int64)
        whole = self.manifest.packing != "cut"
        documents = np.full(tokens.shape, PADDING, dtype=np.int32) if whole else None
        for place, row in enumerate(rows):
            block, inside = self._find(int(row))
            tokens[place] = block.tokens[inside]
            labels[place, :-1] = tokens[place, 1:]
            starts = block.starts_of(inside)
            labels[place, starts[starts > 0] - 1] = IGNORED
            if documents is not None and block.counted is not None and block.used is not None:
                labels[place, :-1][block.counted[inside, 1:] == 0] = IGNORED
                sizes = np.diff(starts, append=block.used[inside])
                numbers = np.arange(len(starts), dtype=np.int32).repeat(sizes)
                documents[place, : len(numbers)] = numbers
        return Batch(tokens, labels, documents)

    def documents(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> int:
        """Return how many documents begin in some rows."""
        found = (self._find(int(row)) for row in rows)
        return sum(len(block.starts_of(inside)) for block, inside in found)

    def stretch(self, start: int, stop: int) -> tuple[Tokens, npt.NDArray[np.int64]]:
        """Return the tokens ``[start, stop)`` of all rows as one text, and the token after each.

        A label is IGNORED at the end, and where the next token begins another document.
        """
        first, last = start // self.sequence_length, -(-stop // self.sequence_length)
        found = [self._find(row) for row in range(first, last)]
        tokens = np.concatenate([block.tokens[inside] for block, inside in found])
        begins = np.zeros(len(tokens), dtype=bool)
        for place, (block, inside) in enumerate(found):
            begins[place * self.sequence_length + block.starts_of(inside)] = True
        own = slice(start - first * self.sequence_length, stop - first * self.sequence_length)
        tokens, begins = tokens[own], begins[own]
        labels = np.full(len(tokens), IGNORED, dtype=np.int64)
        labels[:-1] = np.where(begins[1:], IGNORED, tokens[1:])
        return tokens, labels

    def domains(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        """Return the domain of each row, which is that of its first token."""
        found = (self._find(int(row)) for row in rows)
        return [self._domain_names[block.domains[inside]] for block, inside in found]

    @property
    def largest_id(self) -> int:
        """The largest token id in the split; from the manifest, or else from all rows."""
        noted = [shard.largest_id for shard in self.counts.shards if shard.largest_id is not None]
        if len(noted) < len(self.counts.shards):
            noted = [int(block.tokens.max()) for block in self._blocks]
        return max(noted)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise DataError if a token has no embedding in a model of ``vocab_size`` embeddings.

        A tokenizer may have more ids than the model, as long as the text uses none of them.
        """
        if self.vocab_size > vocab_size and self.largest_id >= vocab_size:
            raise DataError(
                f"{self._path} holds tokens up to {self.largest_id}, but the model has embeddings "
                f"for 0 to {vocab_size - 1}; tokenize again with the tokenizer that the model was "
                "trained with, or give the model more embeddings"
            )

    def verify(self) -> None:
        """Read every shard of the split and compare its SHA-256 with the manifest."""
        for shard in self.counts.shards:
            found = file_sha256(self._path / shard.name)
            if found != shard.sha256:
                raise DataError(
                    f"{self._path / shard.name} has changed since it was written: sha256 is "
                    f"{found[:12]}..., the manifest says {shard.sha256[:12]}...; tokenize again"
                )

    def _find(self, row: int) -> tuple[_Block, int]:
        if not 0 <= row < len(self):
            raise DataError(
                f"row {row} was asked of {self._path}; its {self.split} split has rows 0 to "
                f"{len(self) - 1}"
            )
        number = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return self._blocks[number], row - int(self._first_rows[number])

    def _map(self, shard: Shard) -> None:
        path = self._path / shard.name
        found = path.stat().st_size if path.is_file() else None
        if found != shard.bytes:
            state = "is missing" if found is None else f"has {found} bytes"
            raise DataError(
                f"{path} {state}, the manifest says {shard.bytes}; copy the directory again or "
                "tokenize again"
            )
        try:
            file = pa.ipc.open_file(pa.memory_map(str(path)))
            batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is not a token shard: {error}; tokenize again") from error
        expected = row_schema(self.sequence_length, self.manifest.packing)
        rows = sum(batch.num_rows for batch in batches)
        if not file.schema.equals(expected) or rows != shard.rows:
            raise DataError(
                f"{path} holds {rows} rows of {_columns(file.schema)}, the manifest says "
                f"{shard.rows} of {_columns(expected)}; tokenize again"
            )
        self._domain_names = batches[0].column("domain").dictionary.to_pylist()
        self._blocks.extend(_block(batch, self.sequence_length) for batch in batches)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _block(batch: pa.RecordBatch, length: int) -> _Block:
    starts, domain = batch.column("starts"), batch.column("domain")
    whole = "counted" in batch.schema.names
    return _Block(
        tokens=batch.column("tokens").values.to_numpy().reshape(-1, length),
        starts=starts.values.to_numpy(),
        starts_ends=starts.offsets.to_numpy(),
        domains=domain.indices.to_numpy(),
        counted=batch.column("counted").values.to_numpy().reshape(-1, length) if whole else None,
        used=batch.column("used").to_numpy() if whole else None,
    )
