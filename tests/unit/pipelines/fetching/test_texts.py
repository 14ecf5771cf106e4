import json
import shutil
from pathlib import Path

import pytest

from moe.errors import DataError, StorageError
from pipelines.corpus.documents import read_documents
from pipelines.fetching.texts import SOURCES, fetch_texts


def test_python_topics_need_no_network(tmp_path: Path) -> None:
    said: list[str] = []
    [directory] = fetch_texts(["python-topics"], tmp_path / "texts", said.append)
    documents = list(read_documents([directory]))
    mark = json.loads((directory / "source.json").read_text())
    assert mark["documents"] == len(documents) > 40
    assert sum(len(document.text) for document in documents) > 150_000
    assert "PSF" in mark["licence"]
    assert (directory / "LICENSE").stat().st_size > 0
    assert not any("\n\n   " in document.text for document in documents)  # no indented code
    assert "python-topics" in said[-1]


def test_a_whole_source_is_kept_and_another_directory_refused(tmp_path: Path) -> None:
    said: list[str] = []
    fetch_texts(["python-topics"], tmp_path)
    fetch_texts(["python-topics"], tmp_path, said.append)
    assert said == [f"{tmp_path / 'python-topics'} is already there; kept"]
    (tmp_path / "python-topics" / "source.json").unlink()
    with pytest.raises(StorageError, match="exists and is not empty"):
        fetch_texts(["python-topics"], tmp_path)


def test_an_unknown_source_is_refused_before_any_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'shakespear'; did you mean shakespeare"):
        fetch_texts(["python-topics", "shakespear"], tmp_path)
    with pytest.raises(DataError, match="known: python-topics"):
        fetch_texts(["xyz"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "documents", "megabytes", "phrase"),
    [
        ("python-docstrings", 200, 0.7, "event loop"),
        ("shakespeare", 42, 5.0, "To be, or not to be,--that is the question:--"),
        ("postgresql-doc", 900, 4.0, "VACUUM"),
        ("bible", 66, 4.0, "In the beginning God created the heaven and the earth."),
    ],
)
def test_fetched_text_is_english(
    tmp_path: Path, name: str, documents: int, megabytes: float, phrase: str
) -> None:
    if name in ("postgresql-doc", "bible") and not shutil.which("apt-get"):
        pytest.skip(f"{name} comes from Debian; there is no apt-get here")
    [directory] = fetch_texts([name], tmp_path)
    found = [document.text for document in read_documents([directory])]
    assert len(found) >= documents
    assert sum(map(len, found)) >= megabytes * 1e6
    assert any(phrase in text for text in found)
    assert "Gutenberg" not in "".join(found)
    assert (directory / "LICENSE").stat().st_size > 100


def test_every_source_says_its_licence() -> None:
    assert all(source.licence and source.about for source in SOURCES.values())
