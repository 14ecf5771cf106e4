import codecs
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import DataError
from pipelines.corpus import text_file
from pipelines.corpus.documents import read_documents
from pipelines.corpus.text_file import read_lines, read_text

MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
TEXT = "first Zoë\r\nsecond \U0001f40d\nthird"


@pytest.mark.parametrize("encoding", MARKS)
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(MARKS[encoding] + TEXT.encode(encoding))
    assert read_text(path) == TEXT.replace("\r\n", "\n")
    assert list(read_lines(path)) == ["first Zoë\n", "second \U0001f40d\n", "third"]


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("kind", ["txt", "md", "html", "jsonl"])
def test_every_kind_of_text_may_begin_with_a_mark(tmp_path: Path, encoding: str, kind: str) -> None:
    lines = {"html": "<p>Zoë</p>", "jsonl": json.dumps({"text": "Zoë"}, ensure_ascii=False) + "\n"}
    path = tmp_path / f"a.{kind}"
    path.write_bytes(MARKS[encoding] + lines.get(kind, "Zoë").encode(encoding))
    assert [document.text for document in read_documents([path])] == ["Zoë"]


def test_files_joined_to_one_keep_their_marks_and_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(codecs.BOM_UTF8 + b'{"text": "%d"}\n' % n for n in range(3)))
    assert [document.text for document in read_documents([path])] == ["0", "1", "2"]


@given(
    good=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"))),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    marked=st.booleans(),
)
def test_the_byte_and_the_line_of_a_fault_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, good: list[str], end: str, marked: bool
) -> None:
    path = tmp_path_factory.mktemp("fault") / "a.jsonl"
    before = codecs.BOM_UTF8 * marked + "".join(line + end for line in good).encode() + b"caf"
    path.write_bytes(before + b"\xe9\nmore\n")
    where = rf"is not UTF-8: byte {len(before)}, in line {len(good) + 1}, cannot be decoded"
    with pytest.raises(DataError, match=where):
        read_text(path)
    with pytest.raises(DataError, match=where):
        list(read_lines(path))


def test_a_fault_deep_in_a_large_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = "ë" * 199 + "\n"
    count = 2 * text_file._CHUNK_BYTES // len(line.encode()) + 1
    path.write_bytes(count * line.encode() + b"\xc3")  # cut in the middle of a character
    with pytest.raises(DataError, match=f"byte {count * 399}, in line {count + 1}, cannot"):
        list(read_lines(path))


def test_a_fault_in_marked_utf_16_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(codecs.BOM_UTF16_LE + "ab\nc".encode("utf-16-le") + b"\x00\xdc")
    with pytest.raises(DataError, match="is not UTF-16-LE: byte 10, in line 2, cannot"):
        read_text(path)


def test_text_without_a_mark_that_holds_zero_bytes_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("plain".encode("utf-16-le"))
    with pytest.raises(DataError, match="holds a zero byte at 1, so it is not UTF-8 text; if"):
        read_text(path)
