"""Rows out of JSON lines, JSON arrays and Parquet, as they stand."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moe.errors import DataError
from pipelines.corpus.folder import find_files
from pipelines.corpus.text_file import read_lines, read_text

NOT_JSON = "not JSON"
NO_OBJECT = "not an object with named fields"


@dataclass(frozen=True, slots=True)
class Record:
    """One row. ``source`` names its file and line or row, ``file`` the file alone, and ``domain``
    the directory of the file. ``fault`` says why there are no fields.
    """

    source: str
    file: Path
    fields: dict[str, Any]
    fault: str | None = None

    @property
    def domain(self) -> str:
        """The name of the directory that holds the file."""
        return self.file.resolve().parent.name


def read_records(inputs: Sequence[Path], report: Callable[[str], None]) -> Iterator[Record]:
    """Yield every row of the given files and folders, in a fixed order."""
    for path in find_files(inputs, "rows", _READERS, report):
        try:
            yield from _READERS[path.suffix.lower()](path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _read_json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            yield _parsed(f"{path}:{number}", path, line)


def _read_json(path: Path) -> Iterator[Record]:
    """Yield the objects of an array; a file of one object is one row."""
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not JSON: {error}; a file of one object a line is named .jsonl"
        ) from error
    rows = found if isinstance(found, list) else [found]
    for number, row in enumerate(rows):
        yield _record(f"{path}:{number}", path, row)


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        with pq.ParquetFile(path) as file:
            row = 0
            for batch in file.iter_batches(batch_size=256):
                for values in batch.to_pylist():
                    yield _record(f"{path}:{row}", path, without_nulls(values))
                    row += 1
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error


def _parsed(source: str, path: Path, line: str) -> Record:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return Record(source, path, {}, NOT_JSON)
    return _record(source, path, value)


def _record(source: str, path: Path, value: Any) -> Record:
    if not isinstance(value, dict):
        return Record(source, path, {}, NO_OBJECT)
    return Record(source, path, value)


def without_nulls(value: Any) -> Any:
    """Return a value without the fields that are null: a column of objects has all fields of all
    rows, also those that a row never had.
    """
    if isinstance(value, dict):
        return {key: without_nulls(own) for key, own in value.items() if own is not None}
    if isinstance(value, list):
        return [without_nulls(own) for own in value]
    return value


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
