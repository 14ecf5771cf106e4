import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moe.errors import DataError
from pipelines.corpus.documents import read_documents


def texts(*inputs: Path) -> list[str]:
    return [document.text for document in read_documents(inputs)]


def test_a_directory_is_read_in_full_and_in_order(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.md", "a/deep/x.txt", "z.TXT", ".hidden/h.txt", "b/.h.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    found = list(read_documents([tmp_path]))
    assert [document.text.removeprefix("text of ") for document in found] == [
        "a/deep/x.txt",
        "b/1.md",
        "b/2.txt",
        "z.TXT",
    ]
    assert [document.domain for document in found] == ["deep", "b", "b", tmp_path.name]
    assert found[0].source == str(tmp_path / "a/deep/x.txt")


def test_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "1.html").write_text("<p>from <b>html</b></p><script>x</script>")
    (tmp_path / "2.jsonl").write_text('{"text": "from json", "id": 1}\n\n{"text": "and more"}\n')
    pq.write_table(pa.table({"id": [1, 2], "text": ["from parquet", None]}), tmp_path / "3.parquet")
    (tmp_path / "4.txt").write_text("\ufefffrom text", encoding="utf-8")
    assert texts(tmp_path) == ["from html", "from json", "and more", "from parquet", "from text"]
    sources = [document.source for document in read_documents([tmp_path])]
    assert sources[1:4] == [
        f"{tmp_path}/2.jsonl:1",
        f"{tmp_path}/2.jsonl:3",
        f"{tmp_path}/3.parquet:0",
    ]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    said: list[str] = []
    for name, text in (("1.txt", "same"), ("2.md", "same"), ("3.txt", " \n"), ("4.txt", "other")):
        (tmp_path / name).write_text(text)
    for name in ("a.png", "b.png", "LICENSE"):
        (tmp_path / name).write_text("x")
    assert [document.text for document in read_documents([tmp_path], said.append)] == [
        "same",
        "other",
    ]
    assert said == [
        "skipped 3 files of other kinds: .png 2, LICENSE 1",
        "dropped 1 empty documents and 1 repeated ones",
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"body": "x"}', r"has no string field 'text'; found fields body"),
        ('{"text": 3}', r"has no string field 'text'; found text 3"),
        ('["text"]', r"holds a list"),
        ('{"text": ', r"is not JSON"),
        (json.dumps({"text": "\ud800"}), r"holds half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, fault: str) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"d\.jsonl:2 {fault}"):
        texts(tmp_path / "d.jsonl")


def test_inputs_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"x")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"cannot read text from .*a\.pdf; give files of \.txt"):
        texts(tmp_path / "a.pdf")
    with pytest.raises(DataError, match=r"found files of other kinds: \.pdf 1"):
        texts(tmp_path)
    with pytest.raises(DataError, match="found no files"):
        texts(tmp_path / "b")
    with pytest.raises(DataError, match="no file or directory at"):
        texts(tmp_path / "absent")
    with pytest.raises(DataError, match="no text in nothing"):
        texts()


def test_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Zoë".encode("latin-1"))
    (tmp_path / "b.parquet").write_bytes(b"not parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8: byte 2"):
        texts(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"b\.parquet is not a readable Parquet file"):
        texts(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"no string column 'text'; found text: int64"):
        texts(tmp_path / "c.parquet")


def test_a_folder_behind_a_link_gives_its_documents_and_its_name(tmp_path: Path) -> None:
    (tmp_path / "mnt" / "wiki").mkdir(parents=True)
    (tmp_path / "mnt" / "wiki" / "1.txt").write_text("linked")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "2.txt").write_text("local")
    (tmp_path / "corpus" / "link").symlink_to(tmp_path / "mnt" / "wiki")
    found = list(read_documents([tmp_path / "corpus"]))
    assert [(each.domain, each.text) for each in found] == [("corpus", "local"), ("wiki", "linked")]


def test_text_of_parquet_that_is_not_utf_8_names_its_row(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": raw}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet:1 is not UTF-8: byte 3 of its text"):
        texts(tmp_path)
