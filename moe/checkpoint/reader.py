"""A Hugging Face model directory, opened for reading by tensor name and slice."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from moe.checkpoint.architecture import Architecture, settled
from moe.checkpoint.layouts import Layout, layout_of
from moe.checkpoint.manifest import Manifest
from moe.checkpoint.mismatch import check_names
from moe.checkpoint.quantised.shards import QuantisedShards
from moe.checkpoint.shards import Shards
from moe.checkpoint.weight_files import INDEX, weight_files, weight_map
from moe.config.families import read_config
from moe.config.json_file import read_json
from moe.config.model import ModelConfig
from moe.config.quantised import Quantised, read_quantised
from moe.config.tensors import HEAD, TensorSlice, embedding, tensors
from moe.errors import CheckpointError
from moe.storage import Location

_ROTARY = "rotary_emb.inv_freq"
"""A buffer that old versions of transformers saved; its value follows from config.json."""


class Checkpoint:
    """One model: its architecture, and its tensors under our names.

    ``notes`` are sentences about differences from ``config.json`` and about ignored tensors.
    """

    def __init__(self, path: Location, found: Architecture, shards: Shards, layout: Layout) -> None:
        self.path = path
        self.config: ModelConfig = found.config
        self.notes = found.notes
        self.shards = shards
        self._layout = layout

    @classmethod
    def open(cls, path: Location, manifest: Manifest | None = None) -> Self:
        """Open a directory and check that every tensor exists in the correct shape.

        With the manifest of a training checkpoint, every tensor must be in the file that the
        manifest names, and every tensor that is read is checked against its hash.
        """
        if not path.is_dir():
            raise CheckpointError(f"no model directory at {path}")
        table = read_json(path / "config.json")
        config, form = read_config(table), read_quantised(table)
        if manifest is None:
            files, hashes = weight_files(path), None
        else:
            files = _listed(path, manifest)
            hashes = {name: tensor.sha256 for name, tensor in manifest.tensors.items()}
        found = settled(config, path, files)
        shards = opened(files, form, hashes)
        checkpoint = cls(path, found, shards, layout_of(found.config, shards.names))
        checkpoint._check()
        return checkpoint

    def read(self, tensor: TensorSlice) -> Tensor:
        """Return a slice of a tensor, in its dtype on disk."""
        stored = self._layout.stored(tensor)
        found = self.shards.read(stored.name, stored.box)
        return found.view(tensor.held_shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensors on disk, taken from the embedding."""
        return self.dtype_of(embedding(self.config))

    def dtype_of(self, tensor: TensorSlice) -> torch.dtype:
        """Return the dtype of one tensor on disk."""
        return self.shards.dtype(self._layout.stored(tensor).name)

    def _check(self) -> None:
        stored = map(self._layout.stored, tensors(self.config))
        expected = {found.name: found.shape for found in stored}
        aside = {name for name in self.shards.names if name.endswith(_ROTARY)}
        if aside:
            self.notes += (
                f"{len(aside)} buffers of rotary embeddings in {self.path}, the first is "
                f"{min(aside)}, are ignored; their values follow from config.json",
            )
        twice = {HEAD} if self.config.tie_embeddings else set()
        check_names(
            self.path, expected.keys(), self.shards.names - aside - (twice - expected.keys())
        )
        for name, shape in expected.items():
            if self.shards.shape(name) != shape:
                raise CheckpointError(
                    f"{name} in {self.path} has shape {self.shards.shape(name)}, "
                    f"config.json asks for {shape}; they belong to different models: copy both "
                    "again, "
                    "or correct config.json"
                )
            self.shards.dtype(name)


def opened(
    files: Mapping[str, Location], form: Quantised | None, hashes: Mapping[str, str] | None
) -> Shards:
    """Return the files of a directory; those in few bits read as if they were not."""
    if form is None:
        return Shards(files, hashes)
    embeddings = [name for name in files if name.endswith("embed_tokens.weight") or name == HEAD]
    dtype = Shards(files).dtype(embeddings[0]) if embeddings else None
    return QuantisedShards(files, form, dtype)


def _listed(path: Location, manifest: Manifest) -> dict[str, Location]:
    """Return the files of a training checkpoint; its index and its manifest must agree on them."""
    if not (path / INDEX).exists():
        weight_files(path)
    index = weight_map(path, INDEX)
    files = {name: tensor.file for name, tensor in manifest.tensors.items()}
    for name in sorted(index.keys() | files.keys()):
        if index.get(name) != files.get(name):
            raise CheckpointError(
                f"{name} lies in {index.get(name)} by {path / INDEX} and in {files.get(name)} by "
                "the manifest; these are not the files that were saved, take another checkpoint"
            )
    return {name: path / file for name, file in files.items()}
