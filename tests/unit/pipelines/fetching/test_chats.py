import json
from pathlib import Path

from pipelines.fetching.chats import conversations, fetch_chats


def test_questions_about_paragraphs() -> None:
    rows = list(conversations([("os", "one\n\ntwo\n\nthree\n\nfour"), ("empty", "")]))
    said = [[message["content"] for message in row["messages"]] for row in rows]  # type: ignore[attr-defined]
    assert [each[1::2] for each in said] == [["one", "two", "three"], ["four"]]
    assert said[0][0] == "What does Python say about os?"
    assert said[1][0] == "What does part 4 of the text on os say?"


def test_rows_of_the_text_that_python_ships(tmp_path: Path) -> None:
    folder = fetch_chats(tmp_path / "chats")
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    names = ("python-docstrings", "python-topics")
    assert found == [f"{name}/{file}" for name in names for file in ("LICENSE", "chats.jsonl")]
    rows = (folder / "python-topics" / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 50
    assert all(json.loads(row)["messages"][-1]["role"] == "assistant" for row in rows)
