"""Documents out of files: text, Markdown, HTML, JSON lines and Parquet."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moe.errors import DataError
from pipelines.corpus.folder import find_files
from pipelines.corpus.prose import html_text
from pipelines.corpus.text_file import read_lines, read_text

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Document:
    """One text. ``source`` names its file and, where a file holds several, the line or row.

    ``domain`` is the name of the directory that holds the file.
    """

    source: str
    domain: str
    text: str


def read_documents(
    inputs: Sequence[Path], report: Callable[[str], None] = _LOG.info
) -> Iterator[Document]:
    """Yield every document of the given files and directories, in a fixed order.

    Directories are searched in full, links included; hidden files and kinds of file without a
    reader are skipped. Empty documents and exact duplicates are dropped. ``report`` is called with
    a line about what was skipped, except hidden files.
    """
    files = find_files(inputs, "text", _READERS, report)
    seen: set[bytes] = set()
    empty = repeated = 0
    for path in files:
        domain = path.resolve().parent.name
        for source, text in _read(path):
            digest = _digest(source, text)
            if not text.strip():
                empty += 1
            elif digest in seen:
                repeated += 1
            else:
                seen.add(digest)
                yield Document(source, domain, text)
    if empty or repeated:
        report(f"dropped {empty} empty documents and {repeated} repeated ones")


def _read(path: Path) -> Iterator[tuple[str, str]]:
    try:
        yield from _READERS[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _read_plain(path: Path) -> Iterator[tuple[str, str]]:
    yield str(path), read_text(path)


def _read_html(path: Path) -> Iterator[tuple[str, str]]:
    yield str(path), html_text(path.read_bytes())


def _read_json_lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            source = f"{path}:{number}"
            yield source, _json_text(source, line)


def _json_text(source: str, line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{source} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(
            f"{source} holds a {type(value).__name__}; each line must be an object with 'text'"
        )
    text = value.get("text")
    if not isinstance(text, str):
        found = f"fields {', '.join(value) or '(none)'}" if text is None else f"text {text!r:.40}"
        raise DataError(f"{source} has no string field 'text'; found {found}")
    return text


def _read_parquet(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if "text" not in schema.names or not _is_string(schema.field("text").type):
                found = ", ".join(f"{field.name}: {field.type}" for field in schema)
                raise DataError(f"{path} has no string column 'text'; found {found}")
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=["text"]):
                for text in _values(batch.column(0), path, row):
                    yield f"{path}:{row}", text or ""
                    row += 1
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error


def _values(column: pa.Array, path: Path, first: int) -> list[str | None]:
    """Return the texts of a column, whose first row is ``first`` in the file."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        for row, scalar in enumerate(column, start=first):
            try:
                scalar.as_py()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}:{row} is not UTF-8: byte {error.start} of its text cannot be decoded; "
                    "write the file again with valid text"
                ) from error
        raise


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


_READERS: Mapping[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    ".txt": _read_plain,
    ".md": _read_plain,
    ".html": _read_html,
    ".htm": _read_html,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}


def _digest(source: str, text: str) -> bytes:
    try:
        return hashlib.blake2b(text.encode(), digest_size=16).digest()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{source} holds half of a surrogate pair at character {error.start}, which is not "
            "text; remove it"
        ) from error
