"""Similar documents next to each other: the chain, the embeddings, the shards."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import ConfigError
from pipelines.corpus.manifest import read_manifest
from pipelines.corpus.shards import TokenShards
from pipelines.corpus.similarity import HOW, LEADING_TOKENS, Embedder, Vectors, chain
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from tests import tiny


def chained_plainly(vectors: Vectors) -> list[int]:
    found = [0]
    while len(found) < len(vectors):
        left = [number for number in range(len(vectors)) if number not in found]
        found.append(max(left, key=lambda number: float(vectors[number] @ vectors[found[-1]])))
    return found


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_each_document_is_followed_by_the_most_similar_that_is_left(
    count: int, width: int, seed: int
) -> None:
    vectors = np.random.default_rng(seed).integers(-2, 3, (count, width)).astype(np.float32)
    assert list(chain(vectors)) == chained_plainly(vectors)


def test_no_documents_are_no_chain() -> None:
    assert list(chain(np.empty((0, 3), dtype=np.float32))) == []


def test_an_embedding_reads_the_first_tokens_of_a_document_and_no_padding(tmp_path: Path) -> None:
    embedder = Embedder(tiny.saved(tiny.llama(), tmp_path))
    long = tiny.tokens(97, 1, LEADING_TOKENS + 9)[0].numpy().astype(np.int32)
    short = long[:7]
    together = embedder.vectors([long, short, long[:LEADING_TOKENS]])
    assert np.allclose(together[0], together[2], atol=1e-6)
    assert np.allclose(together[1], embedder.vectors([short])[0], atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)


@pytest.fixture
def model(tmp_path: Path, small_model: Path) -> Path:
    """A model with the tokenizer of whole words."""
    directory = tiny.saved(tiny.llama(vocab_size=32, eos_token_id=0), tmp_path / "model")
    shutil.copy(small_model / "tokenizer.json", directory)
    return directory


def texts(directory: Path) -> Path:
    """Write documents of two subjects in turns."""
    directory.mkdir()
    for number in range(24):
        words = [f"w{(number % 2) * 15 + (number * step) % 12}" for step in range(1, 14)]
        (directory / f"{number:02}.txt").write_text(" ".join(words))
    return directory


def subjects(directory: Path) -> list[bool]:
    shards = TokenShards.open(directory, "train")
    tokens = shards.batch(range(len(shards))).tokens
    return [bool(np.median(row) > 15) for row in tokens]


def test_training_rows_hold_similar_documents_and_the_manifest_says_so(
    tmp_path: Path, model: Path
) -> None:
    source = texts(tmp_path / "in")
    options = TokenizeOptions(sequence_length=14, held_out_fraction=0.1)
    similar = TokenizeOptions(sequence_length=14, held_out_fraction=0.1, similar=True)
    plain = tokenize([source], model, tmp_path / "plain", options)
    found = tokenize([source], model, tmp_path / "similar", similar)
    assert tokenize([source], model, tmp_path / "again", similar) == found
    assert plain.chained is None
    assert read_manifest(tmp_path / "similar").chained == found.chained == HOW
    assert found.held_out == plain.held_out
    assert (found.train.tokens, found.train.rows) == (plain.train.tokens, plain.train.rows)
    rows = {name: subjects(tmp_path / name) for name in ("plain", "similar")}
    changes = {name: sum(one != two for one, two in pairwise(own)) for name, own in rows.items()}
    assert changes["similar"] < changes["plain"]


def test_manifests_of_before_are_read(tmp_path: Path, small_model: Path) -> None:
    source = texts(tmp_path / "in")
    made = tokenize([source], small_model, tmp_path / "out", TokenizeOptions(sequence_length=14))
    path = tmp_path / "out" / "manifest.json"
    table = json.loads(path.read_text())
    del table["chained"]
    path.write_text(json.dumps(table))
    assert read_manifest(tmp_path / "out") == made


def test_a_model_that_cannot_be_computed_cannot_tell_what_is_similar(
    tmp_path: Path, small_model: Path
) -> None:
    options = TokenizeOptions(sequence_length=14, similar=True)
    with pytest.raises(ConfigError, match="model_type None"):
        tokenize([texts(tmp_path / "in")], small_model, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
