"""Directories without a model's files, and what is said to lie there instead."""

from pathlib import Path

import pytest

from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.weight_files import INDEX, SINGLE, weight_files
from moe.errors import CheckpointError
from tests import tiny

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 134\n".format("0" * 64)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adapter_model.safetensors", "the difference to another model; merge it"),
        ("consolidated.00.safetensors", r"consolidated\.00\.safetensors; give the directory in"),
        ("pytorch_model.bin", "a pickle that runs code"),
        ("model.gguf", r"model\.gguf; take the model in the form that transformers writes"),
    ],
)
def test_what_is_there_instead(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(CheckpointError, match=rf"holds no {SINGLE} .*{said}"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POINTER, "is a Git LFS pointer .*; run `git lfs pull`"),
        ("<!DOCTYPE html>\n<html>", "is a web page and not the file"),
    ],
)
@pytest.mark.parametrize("name", [SINGLE, INDEX, "config.json"])
def test_files_that_stand_for_others(name: str, text: str, said: str, tmp_path: Path) -> None:
    path = tiny.saved(tiny.llama(num_hidden_layers=1), tmp_path)
    if name == INDEX:
        (path / SINGLE).unlink()
    (path / name).write_text(text)
    with pytest.raises(CheckpointError, match=f"{name} {said}"):
        Checkpoint.open(path)


def test_a_folder_of_links_into_a_cache(tmp_path: Path) -> None:
    blobs, snapshot = (
        tiny.saved(tiny.llama(num_hidden_layers=1), tmp_path / "blobs"),
        tmp_path / "s",
    )
    snapshot.mkdir()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("..") / "blobs" / file.name)
    (tmp_path / "main").symlink_to(snapshot)
    assert Checkpoint.open(tmp_path / "main").config.layers == 1
    for lost in ("config.json", SINGLE):
        (snapshot / lost).rename(snapshot / "kept")
        (snapshot / lost).symlink_to("nowhere")
        with pytest.raises(CheckpointError, match=f"{lost} is a link to nowhere, .* copy the fi"):
            Checkpoint.open(tmp_path / "main")
        (snapshot / "kept").rename(snapshot / lost)
    (blobs / SINGLE).unlink()
    with pytest.raises(
        CheckpointError, match=r"is a link to \.\./blobs/.* copy the files themselves"
    ):
        Checkpoint.open(tmp_path / "main")
