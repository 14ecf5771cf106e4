import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import DataError
from moe.nn import loss
from pipelines.corpus.manifest import SplitManifest, TokenManifest, write_manifest
from pipelines.corpus.packing import cut
from pipelines.corpus.shard_writer import ShardWriter
from pipelines.corpus.shards import IGNORED, TokenShards


def write_shards(directory: Path, documents: list[tuple[np.ndarray, int]], length: int) -> None:
    """Write the same documents as both splits, five rows a shard."""
    splits = {}
    tokens = sum(len(document) for document, _ in documents)
    for name in ("train", "held_out"):
        writer = ShardWriter(directory, name, ["a", "b", "c"], length, 5)
        shards = writer.write(cut(documents, length)).shards
        rows = sum(shard.rows for shard in shards)
        splits[name] = SplitManifest(len(documents), tokens, rows, tokens % length, {}, shards)
    write_manifest(directory, TokenManifest(length, 1000, 0, "", 0, 0.5, **splits))


def numbered(sizes: list[int]) -> list[tuple[np.ndarray, int]]:
    ends = np.cumsum(sizes)
    return [
        (np.arange(end - size, end, dtype=np.int32), number % 3)
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_shards(tmp_path, numbered([7, 1, 30, 4, 20, 26]), 4)
    return tmp_path


@given(st.lists(st.integers(1, 15), min_size=12, max_size=30), st.integers(2, 6))
def test_labels_stay_inside_documents_and_rows(sizes: list[int], length: int) -> None:
    first_tokens = set((np.cumsum(sizes) - sizes).tolist())
    with tempfile.TemporaryDirectory() as path:
        write_shards(Path(path), numbered(sizes), length)
        shards = TokenShards.open(Path(path), "train")
        rows = list(reversed(range(len(shards))))
        batch = shards.batch(rows)
    assert len(rows) == sum(sizes) // length
    for row, tokens, labels in zip(rows, batch.tokens, batch.labels, strict=True):
        assert tokens.tolist() == list(range(row * length, (row + 1) * length))
        following = tokens + 1  # tokens are numbered, so the next one is known
        expected = [IGNORED if token in first_tokens else token for token in following.tolist()]
        assert labels.tolist() == [*expected[:-1], IGNORED]


def test_properties_and_types(directory: Path) -> None:
    shards = TokenShards.open(directory, "held_out")
    batch = shards.batch(np.array([3, 3, 0]))
    assert (len(shards), shards.sequence_length, shards.vocab_size) == (22, 4, 1000)
    assert (batch.tokens.dtype, batch.labels.dtype) == (np.int32, np.int64)
    assert batch.tokens[:, 0].tolist() == [12, 12, 0]
    assert shards.batch([]).tokens.shape == (0, 4)


def test_domains(directory: Path) -> None:
    assert TokenShards.open(directory, "train").domains([0, 1, 2, 10, 15, 21]) == list("aacabc")


def test_reading_copies_nothing_but_the_rows_asked_for(directory: Path) -> None:
    before = pa.total_allocated_bytes()
    shards = TokenShards.open(directory, "train")
    shards.batch([0])
    assert pa.total_allocated_bytes() - before < 200  # a few offsets, never the tokens


@pytest.mark.parametrize("row", [-1, 22])
def test_a_row_beyond_the_end_is_refused(directory: Path, row: int) -> None:
    with pytest.raises(DataError, match=rf"row {row} was asked .* rows 0 to 21"):
        TokenShards.open(directory, "train").batch([row])


@pytest.mark.parametrize("noted", [True, False])
def test_a_model_too_small_for_a_token_that_occurs_is_refused(directory: Path, noted: bool) -> None:
    """The tokenizer has 1000 ids; the text uses 0 to 87."""
    if not noted:  # as directories of an older version are
        manifest = json.loads((directory / "manifest.json").read_text())
        for shard in manifest["train"]["shards"]:
            del shard["largest_id"]
        (directory / "manifest.json").write_text(json.dumps(manifest))
    shards = TokenShards.open(directory, "train")
    assert shards.largest_id == 87
    shards.check_vocabulary(88)
    with pytest.raises(DataError, match=r"holds tokens up to 87, but the model has .* 0 to 86"):
        shards.check_vocabulary(87)


def test_a_truncated_and_a_missing_shard(directory: Path) -> None:
    path = directory / "train-00001.arrow"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"train-00001\.arrow has \d+ bytes, the manifest says"):
        TokenShards.open(directory, "train")
    TokenShards.open(directory, "held_out")
    path.unlink()
    with pytest.raises(DataError, match=r"train-00001\.arrow is missing"):
        TokenShards.open(directory, "train")


def test_changed_bytes_are_found_by_verify_alone(directory: Path) -> None:
    path = directory / "train-00001.arrow"
    content = path.read_bytes()
    token = np.int32(23).tobytes()
    path.write_bytes(content.replace(token, np.int32(24).tobytes(), 1))
    shards = TokenShards.open(directory, "train")
    TokenShards.open(directory, "held_out").verify()
    with pytest.raises(DataError, match=r"train-00001\.arrow has changed"):
        shards.verify()
    path.write_bytes(b"\0" * len(content))
    with pytest.raises(DataError, match="is not a token shard"):
        TokenShards.open(directory, "train")


def test_another_schema_is_refused(directory: Path) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["sequence_length"] = 8
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"the manifest says 5 of tokens: fixed_size_list.*\[8\]"):
        TokenShards.open(directory, "train")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (None, "holds no token shards: no manifest.json; make it with 'raymoe tokenize'"),
        ("{", "cannot read"),
        ("[]", "is not a manifest"),
        ('{"format": 3}', "has format 3; this raymoe reads 1 and 2"),
        ('{"format": 1, "train": {}}', "is not a manifest"),
    ],
)
def test_manifests_that_are_missing_or_broken(
    directory: Path, change: str | None, fault: str
) -> None:
    (directory / "manifest.json").unlink()
    if change is not None:
        (directory / "manifest.json").write_text(change)
    with pytest.raises(DataError, match=fault):
        TokenShards.open(directory, "train")


def test_directories_of_the_first_format_are_text_that_was_cut(directory: Path) -> None:
    path = directory / "manifest.json"
    table = json.loads(path.read_text())
    for key in ("kind", "packing", "truncation", "rendering", "input"):
        del table[key]
    for split in ("train", "held_out"):
        del table[split]["counted_tokens"]
    path.write_text(json.dumps(table | {"format": 1}))
    shards = TokenShards.open(directory, "train")
    assert (shards.manifest.kind, shards.manifest.packing) == ("text", "cut")
    assert shards.batch([0, 1]).documents is None


def test_an_unknown_split_is_refused(directory: Path) -> None:
    with pytest.raises(DataError, match="choose one of train, held_out"):
        TokenShards.open(directory, "test")  # type: ignore[arg-type]


def test_what_has_nothing_to_predict_is_what_the_loss_passes_over() -> None:
    assert IGNORED == loss.IGNORED
