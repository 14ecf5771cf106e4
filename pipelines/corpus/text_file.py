"""Text files as text: UTF-8, or the encoding that a byte-order mark at the beginning names."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from moe.errors import DataError

MARK = "\ufeff"
"""The decoded byte-order mark. It is not part of the text."""

_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEAD_BYTES = 8192
_CHUNK_BYTES = 1 << 20


def read_text(path: Path) -> str:
    """Return the whole text of a file, with line ends as ``\\n``.

    Raises a DataError with the byte and the line if the file cannot be decoded.
    """
    encoding = _encoding(path)
    try:
        return path.read_text(encoding=encoding).removeprefix(MARK)
    except UnicodeDecodeError as error:
        raise _fault(path, encoding) from error


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, however large, with their ends.

    Concatenated files keep their byte-order marks, so a mark is removed from any line. Raises
    DataError as ``read_text``.
    """
    encoding = _encoding(path)
    try:
        with path.open(encoding=encoding) as lines:
            for line in lines:
                yield line.removeprefix(MARK)
    except UnicodeDecodeError as error:
        raise _fault(path, encoding) from error


def _encoding(path: Path) -> str:
    """Return the encoding of a file; DataError if its beginning is not text in any encoding."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for mark, encoding in _ENCODINGS:
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        raise DataError(
            f"{path} holds a zero byte at {head.index(0)}, so it is not UTF-8 text; if it is "
            "UTF-16, save it with a byte-order mark or convert it to UTF-8"
        )
    return "utf-8"


def _fault(path: Path, encoding: str) -> DataError:
    """Return the error for a file with bytes that its encoding does not allow."""
    offset, line = _first_fault(path, encoding)
    return DataError(
        f"{path} is not {encoding.upper()}: byte {offset}, in line {line}, cannot be decoded; "
        "convert the file or correct the line"
    )


def _first_fault(path: Path, encoding: str) -> tuple[int, int]:
    """Return the offset of the first byte that cannot be decoded, and its line, counted from 1."""
    decoder = codecs.getincrementaldecoder(encoding)()
    ends = io.IncrementalNewlineDecoder(None, translate=True)
    start, line = 0, 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            held = decoder.getstate()[0]
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                before = (held + chunk)[: error.start].decode(encoding)
                found = ends.decode(before, final=True).count("\n")
                return start - len(held) + error.start, line + found
            line += ends.decode(text).count("\n")
            start += len(chunk)
