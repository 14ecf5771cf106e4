"""Rows to shards: what counts, what is left out, and what a run then trains on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moe.errors import ConfigError, DataError
from pipelines.corpus.manifest import TokenManifest, read_manifest
from pipelines.corpus.shards import IGNORED, TokenShards
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.serving.text.text import Text
from pipelines.tuning.reading import TuningOptions
from pipelines.tuning.tokenize import tokenize_rows
from tests import chats, vocabularies
from tests.chats import turns

LENGTH = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chats.directory(tmp_path_factory.mktemp("chat"))


def conversations(count: int = 20) -> list[dict[str, Any]]:
    words = ["the", "dog", "jumps", "over", "a", "lazy", "fox", "and"]
    return [
        {"messages": turns(f"say {n}", " ".join(words[: 1 + n % 7]) + f" {n}")}
        for n in range(count)
    ]


def written(
    model: Path, to: Path, rows: Sequence[Any], said: list[str] | None = None, **how: Any
) -> TokenManifest:
    """Tokenize rows of chat unless another kind is asked for."""
    to.mkdir(exist_ok=True)
    file = chats.write(to / "rows.jsonl", rows)
    packing, truncation = how.pop("packing", "packed"), how.pop("truncation", "right")
    length = how.pop("length", LENGTH)
    options = TokenizeOptions(length, 0.2, packing=packing, truncation=truncation)
    tuning = TuningOptions(**{"kind": "chat", **how})
    report = [] if said is None else said
    return tokenize_rows([file], model, to / "tokens", tuning, options, report.append)


def answers(tokens: Path, model: Path) -> list[str]:
    """Return the texts whose tokens count, by row and document, in alphabetical order."""
    text, found = Text.open(model), []
    for split in ("train", "held_out"):
        shards = TokenShards.open(tokens, split)  # type: ignore[arg-type]
        batch = shards.batch(range(len(shards)))
        assert batch.documents is not None
        for row, labels in zip(batch.documents, batch.labels, strict=True):
            for number in range(row.max() + 1):
                own = labels[row == number]
                found.append(text.whole(own[own != IGNORED]))
    return sorted(found)


def expected(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(f"{row['messages'][-1]['content']}</s>" for row in rows)


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_answers_and_nothing_else_count(packing: str, model: Path, tmp_path: Path) -> None:
    rows = conversations()
    manifest = written(model, tmp_path, rows, packing=packing)
    assert answers(tmp_path / "tokens", model) == expected(rows)
    assert (manifest.kind, manifest.packing, manifest.truncation) == ("chat", packing, "right")
    assert read_manifest(tmp_path / "tokens") == manifest
    shards = TokenShards.open(tmp_path / "tokens", "train")
    shards.verify()
    batch = shards.batch(range(len(shards)))
    assert batch.documents is not None
    assert manifest.train.counted_tokens == int((batch.labels != IGNORED).sum())
    assert manifest.train.tokens == int((batch.documents >= 0).sum())
    assert set(batch.tokens[batch.documents < 0]) <= {manifest.eos_token_id}
    assert (len(shards) < manifest.train.documents) is (packing == "packed")
    assert manifest.rendering is not None
    assert (manifest.rendering.template, manifest.rendering.answers) == ("model", "all")


def test_documents_of_a_row_are_numbered_and_stay_whole(model: Path, tmp_path: Path) -> None:
    rows = conversations()
    written(model, tmp_path, rows)
    text = Text.open(model)
    shards = TokenShards.open(tmp_path / "tokens", "train")
    batch = shards.batch(range(len(shards)))
    assert batch.documents is not None
    found = []
    for tokens, numbers in zip(batch.tokens, batch.documents, strict=True):
        for number in range(numbers.max() + 1):
            places = np.flatnonzero(numbers == number)
            assert places.tolist() == list(range(places[0], places[-1] + 1))
            found.append(text.whole(tokens[places]))
    whole = {text.transcript(vocabularies.TEMPLATE, row["messages"]).text for row in rows}
    assert len(found) == shards.counts.documents
    assert set(found) <= whole


def test_odd_rows_are_counted_by_reason(model: Path, tmp_path: Path) -> None:
    rows = conversations(10)
    odd = [
        "not json",
        "[1, 2]",
        {"messages": turns("only a question")},
        {"messages": turns("q", "")},
        {"text": "something else"},
        rows[3],
        {"messages": turns("q", "half \ud800")},
        {"messages": turns("q", "word " * 99)},
    ]
    said: list[str] = []
    trailing = {"messages": turns("one", "more", "and then?")}
    manifest = written(model, tmp_path, [*rows, *odd, trailing], said, truncation="drop")
    assert manifest.input is not None
    assert dict(manifest.input.odd) == {
        "not JSON": 1,
        "not an object with named fields": 1,
        "no answer that counts": 1,
        "an answer is empty": 1,
        "no columns messages": 1,
        "repeated": 1,
        "content: character 5 is half of a surrogate pair": 1,
        "longer than a row": 1,
    }
    assert (manifest.input.read, manifest.train.documents + manifest.held_out.documents) == (19, 11)
    assert "19 rows read, 11 kept; of these 0 truncated, by 0 tokens" in said
    (left,) = (line for line in said if line.startswith("left out: "))
    assert f"1 not JSON (first {tmp_path / 'rows.jsonl'}:11)" in left
    assert "in 1 rows turns after the last answer were cut off" in said
    assert answers(tmp_path / "tokens", model) == sorted([*expected(rows), "more</s>"])


def test_strict_refuses_the_first_odd_row(model: Path, tmp_path: Path) -> None:
    rows = [*conversations(4), conversations(1)[0], {"messages": turns("q")}]
    with pytest.raises(DataError, match=r"rows\.jsonl:6: no answer that counts; correct the row"):
        written(model, tmp_path, rows, strict=True)
    assert not (tmp_path / "tokens").exists()
    long = [*conversations(4), {"messages": turns("word " * 60, "a")}]
    with pytest.raises(DataError, match=r"rows\.jsonl:5: no token that counts within a row; "):
        written(model, tmp_path, long, strict=True)


def test_no_usable_row_is_an_error(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 2 rows can be used: 2 no answer that counts \(f"):
        written(model, tmp_path, [{"messages": turns("a")}, {"messages": turns("b")}])


@pytest.mark.parametrize(("truncation", "ends"), [("right", False), ("left", True), ("drop", None)])
def test_long_answers_are_cut(
    truncation: str, ends: bool | None, model: Path, tmp_path: Path
) -> None:
    long = {"messages": turns("q", "word " * 80 + "word")}
    manifest = written(model, tmp_path, [*conversations(6), long], truncation=truncation)
    found = max(answers(tmp_path / "tokens", model), key=len)
    assert manifest.input is not None
    if ends is None:
        assert (manifest.input.truncated, manifest.input.odd) == (0, {"longer than a row": 1})
        return
    assert "word word" in found
    assert found.endswith("</s>") is ends
    assert manifest.input.truncated == 1
    text = Text.open(model)
    whole = text.transcript(vocabularies.TEMPLATE, long["messages"]).text
    assert manifest.input.lost == len(text.encode(whole, special=False)) - LENGTH


def test_pairs_share_a_row(model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(12)]
    manifest = written(model, tmp_path, rows, kind="preference")
    assert manifest.kind == "preference"
    text, found = Text.open(model), set()
    for split in ("train", "held_out"):
        shards = TokenShards.open(tmp_path / "tokens", split)  # type: ignore[arg-type]
        batch = shards.batch(range(len(shards)))
        assert batch.documents is not None
        for labels, numbers in zip(batch.labels, batch.documents, strict=True):
            said = [
                text.whole([each for each in labels[numbers == n] if each != IGNORED])
                for n in range(numbers.max() + 1)
            ]
            found |= {*zip(said[::2], said[1::2], strict=True)}
    assert found == {(f"good {n}</s>", f"bad {n}</s>") for n in range(12)}


def test_no_end_token_is_a_caution(model: Path, tmp_path: Path) -> None:
    endless = tmp_path / "endless.jinja"
    endless.write_text(chats.MARKED.replace("{{ eos_token }}{% endg", "{% endg"))
    said: list[str] = []
    manifest = written(model, tmp_path, conversations(), said, template=str(endless))
    assert manifest.input is not None
    assert manifest.input.changes == {"no end token of the model counts": 20}
    assert said[-1].startswith("caution: where no end token counts, the model does not learn")


def test_special_tokens_within_messages_are_counted(model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    written(model, tmp_path, [*conversations(), {"messages": turns("q</s>", "a")}], said)
    assert "in 1 rows messages hold texts that are read as special tokens" in said


def test_the_shape_is_that_of_each_file(model: Path, tmp_path: Path) -> None:
    """JSON arrays, Parquet whose objects have the fields of all rows, and a given shape."""
    rows = conversations(9)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text(json.dumps(rows[:3]))
    table = pa.Table.from_pylist(
        [
            {
                "conversations": [
                    {"from": "human", "value": own[0]["content"], "extra": None},
                    {"from": "gpt", "value": own[1]["content"], "extra": "x"},
                ]
            }
            for own in (row["messages"] for row in rows[3:6])
        ]
    )
    pq.write_table(table, tmp_path / "in" / "b.parquet")
    single = [
        {"instruction": m[0]["content"], "output": m[1]["content"], "prompt": 0}
        for m in (row["messages"] for row in rows[6:])
    ]
    chats.write(tmp_path / "in" / "c.jsonl", single)
    options = TokenizeOptions(LENGTH, 0.2, packing="packed")
    tokenize_rows(
        [tmp_path / "in"], model, tmp_path / "tokens", TuningOptions("chat"), options, [].append
    )
    assert answers(tmp_path / "tokens", model) == expected(rows)


def test_a_system_message_for_rows_that_have_none(model: Path, tmp_path: Path) -> None:
    rows = [*conversations(4), {"messages": turns("q", "own", system="mine")}]
    written(model, tmp_path, rows, system="be kind")
    text, shards = Text.open(model), TokenShards.open(tmp_path / "tokens", "train")
    whole = "".join(text.whole(row) for row in shards.batch(range(len(shards))).tokens)
    assert whole.count("be kind") + whole.count("mine") == shards.counts.documents


def test_text_may_be_packed_too(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for number in range(12):
        (tmp_path / "text" / f"{number}.txt").write_text(f"the dog {number} " * (1 + number % 3))
    options = TokenizeOptions(LENGTH, 0.2, packing="packed")
    manifest = tokenize([tmp_path / "text"], model, tmp_path / "tokens", options)
    assert (manifest.kind, manifest.packing, manifest.rendering) == ("text", "packed", None)
    train = manifest.train
    assert train.counted_tokens == train.tokens - train.documents
    assert manifest.input is not None
    assert manifest.input.read == 12


def test_rows_are_not_cut_out_of_one_text(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rows of --kind chat stay whole"):
        written(model, tmp_path, conversations(), packing="cut")
