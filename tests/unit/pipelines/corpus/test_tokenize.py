import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from moe.errors import CheckpointError, DataError, StorageError
from pipelines.corpus.shards import TokenShards
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.fetching.texts import fetch_texts


def write_texts(directory: Path, domains: int = 2, documents: int = 20) -> Path:
    for domain in range(domains):
        (directory / f"domain{domain}").mkdir(parents=True)
        for number in range(documents):
            words = [f"w{(domain + number * step) % 30}" for step in range(5 + number)]
            path = directory / f"domain{domain}" / f"{number}.txt"
            path.write_text(f"w{domain} " + " ".join(words))
    return directory


def options(**changes: float) -> TokenizeOptions:
    return TokenizeOptions(**{"sequence_length": 8, "held_out_fraction": 0.1, **changes})  # type: ignore[arg-type]


def stream(directory: Path, split: str) -> list[int]:
    shards = TokenShards.open(directory, split)  # type: ignore[arg-type]
    return [int(token) for token in shards.batch(range(len(shards))).tokens.ravel()]


def test_counts_add_up(tmp_path: Path, small_model: Path) -> None:
    inputs = write_texts(tmp_path / "in")
    manifest = tokenize([inputs], small_model, tmp_path / "out", options())
    assert manifest.train.documents + manifest.held_out.documents == 40
    for split in (manifest.train, manifest.held_out):
        assert split.tokens == split.rows * 8 + split.tail_tokens
        assert split.tail_tokens < 8
        assert sum(count.documents for count in split.domains.values()) == split.documents
        assert sum(count.tokens for count in split.domains.values()) == split.tokens
        assert sum(count.rows for count in split.domains.values()) == split.rows
    assert {name: count.documents for name, count in manifest.held_out.domains.items()} == {
        "domain0": 2,
        "domain1": 2,
    }
    assert manifest.train.tokens + manifest.held_out.tokens == 40 * 7 + 2 * sum(range(20))
    assert (manifest.vocab_size, manifest.eos_token_id) == (32, 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "held_out-00000.arrow",
        "manifest.json",
        "train-00000.arrow",
    ]


def test_the_split_is_by_whole_documents_and_repeats(tmp_path: Path, small_model: Path) -> None:
    inputs = write_texts(tmp_path / "in")
    first = tokenize([inputs], small_model, tmp_path / "a", options())
    assert tokenize([inputs], small_model, tmp_path / "b", options()) == first
    other = tokenize([inputs], small_model, tmp_path / "c", options(seed=1))
    assert other.held_out.shards != first.held_out.shards
    one = options(sequence_length=2)
    tokenize([inputs], small_model, tmp_path / "d", one)
    held_out = " ".join(map(str, stream(tmp_path / "d", "held_out"))).split(" 0 ")
    train = " ".join(map(str, stream(tmp_path / "d", "train"))).split(" 0 ")
    assert len(held_out) == 4
    assert not set(held_out) & set(train)


def test_shards_are_cut_by_rows(tmp_path: Path, small_model: Path) -> None:
    inputs = write_texts(tmp_path / "in")
    whole = tokenize([inputs], small_model, tmp_path / "whole", options())
    cut = tokenize([inputs], small_model, tmp_path / "cut", options(rows_per_shard=7))
    assert [shard.rows for shard in cut.train.shards][:-1] == [7] * (whole.train.rows // 7)
    assert cut.train.rows == whole.train.rows
    assert stream(tmp_path / "cut", "train") == stream(tmp_path / "whole", "train")


def test_two_single_documents_go_to_either_side(tmp_path: Path, small_model: Path) -> None:
    inputs = write_texts(tmp_path / "in", domains=2, documents=1)
    manifest = tokenize([inputs], small_model, tmp_path / "out", options(sequence_length=2))
    assert (manifest.train.documents, manifest.held_out.documents) == (1, 1)


def test_an_interruption_leaves_nothing(tmp_path: Path, small_model: Path) -> None:
    inputs = write_texts(tmp_path / "in")

    def interrupt(message: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize([inputs], small_model, tmp_path / "out", options(), interrupt)
    (inputs / "z.jsonl").write_text("broken")
    with pytest.raises(DataError, match=r"z\.jsonl:1 is not JSON"):
        tokenize([inputs], small_model, tmp_path / "out", options())
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_too_little_text(tmp_path: Path, small_model: Path) -> None:
    inputs = write_texts(tmp_path / "in", domains=1, documents=3)
    one = inputs / "domain0" / "0.txt"
    with pytest.raises(DataError, match="found 1 documents with text"):
        tokenize([one], small_model, tmp_path / "out", options())
    with pytest.raises(DataError, match=r"held_out documents \(1\) hold \d+ tokens, less than one"):
        tokenize([inputs], small_model, tmp_path / "out", options(sequence_length=16))


def test_an_existing_destination_is_refused(tmp_path: Path, small_model: Path) -> None:
    inputs = write_texts(tmp_path / "in")
    with pytest.raises(StorageError, match="exists and is not empty"):
        tokenize([inputs], small_model, inputs, options())


@pytest.mark.parametrize(
    "changes",
    [{"sequence_length": 1}, {"held_out_fraction": 1}, {"seed": -1}, {"rows_per_shard": 0}],
)
def test_senseless_options_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(DataError):
        options(**changes)


def test_models_without_a_tokenizer_or_an_end(tmp_path: Path, small_model: Path) -> None:
    inputs = write_texts(tmp_path / "in")
    model = tmp_path / "model"
    model.mkdir()

    def attempt() -> None:
        tokenize([inputs], model, tmp_path / "out", options())

    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        attempt()
    (model / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is a Git LFS pointer"):
        attempt()
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        attempt()
    shutil.copy(small_model / "tokenizer.json", model)
    with pytest.raises(CheckpointError, match="names no end-of-sequence token"):
        attempt()
    (model / "config.json").write_text(json.dumps({"eos_token_id": 99}))
    with pytest.raises(CheckpointError, match=r"end-of-sequence token 99, but .* ids 0 to 31"):
        attempt()
    (model / "config.json").write_text("{}")
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<end>"}}))
    attempt()


def test_the_end_is_that_at_which_the_model_generates(tmp_path: Path, small_model: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(small_model, model)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 0]}))
    inputs = write_texts(tmp_path / "in")
    assert tokenize([inputs], model, tmp_path / "out", options()).eos_token_id == 1


@pytest.mark.parametrize(
    ("embeddings", "said"),
    [
        (32, None),
        (31, "the tokenizer of {} has ids up to 31, the model takes ids up to 30; the text uses "),
        (30, "caution: the tokenizer of {} has ids up to 31, the model takes ids up to 29, and "),
    ],
)
def test_a_tokenizer_with_more_ids_than_the_model_is_told(
    embeddings: int, said: str | None, tmp_path: Path, small_model: Path
) -> None:
    """Token 30 occurs, 31 does not."""
    model, inputs = tmp_path / "model", tmp_path / "in"
    shutil.copytree(small_model, model)
    (model / "config.json").write_text(json.dumps({"eos_token_id": 0, "vocab_size": embeddings}))
    inputs.mkdir()
    for number in range(4):
        (inputs / f"{number}.txt").write_text(f"w{number} w28 " * 9)
    lines: list[str] = []
    tokenize([inputs], model, tmp_path / "out", options(), lines.append)
    assert TokenShards.open(tmp_path / "out", "train").largest_id == 30
    *_, last = lines
    assert last.startswith(said.format(model) if said else f"wrote {tmp_path / 'out'}: ")


@pytest.mark.slow
def test_tokens_are_those_of_transformers(tmp_path: Path, smollm2: Path) -> None:
    [topics] = fetch_texts(["python-topics"], tmp_path)
    extra = topics / "numbers.txt"
    extra.write_text("a  12\n1234 Zoë <|im_end|> \t 3.14")
    tokenize([topics], smollm2, tmp_path / "out", TokenizeOptions(sequence_length=64))
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    expected = set()
    for path in topics.glob("*.txt"):
        ids = tokenizer(path.read_text(), add_special_tokens=False, verbose=False).input_ids
        expected.add(tuple(ids))
    found = set()
    for split in ("train", "held_out"):
        shards = TokenShards.open(tmp_path / "out", split)  # type: ignore[arg-type]
        batch = shards.batch(range(len(shards)))
        ends = np.flatnonzero((batch.labels[:, :-1] == -100).ravel())
        assert len(ends) > 0
        tokens = batch.tokens.ravel().tolist()
        found |= set(cut_at_end(tokens, shards.manifest.eos_token_id))
    with_end_inside = {ids for ids in expected if 2 in ids}
    assert len(with_end_inside) == 1
    assert len((expected - with_end_inside) - found) <= 2  # the tail of each split is dropped


def cut_at_end(tokens: list[int], end: int) -> list[tuple[int, ...]]:
    documents: list[tuple[int, ...]] = []
    current: list[int] = []
    for token in tokens:
        if token == end:
            documents.append(tuple(current))
            current = []
        else:
            current.append(token)
    return documents
