"""A Hugging Face model directory, opened for reading by tensor name and slice."""

import torch
from torch import Tensor

from moe.checkpoint.architecture import Architecture, settled
from moe.checkpoint.layouts import Layout, layout_of
from moe.checkpoint.manifest import Manifest
from moe.checkpoint.mismatch import check_names
from moe.checkpoint.shards import Shards
from moe.checkpoint.weight_files import INDEX, weight_files, weight_map
from moe.config.families import read_config
from moe.config.json_file import read_json
from moe.config.model import ModelConfig
from moe.config.tensors import HEAD, TensorSlice, embedding, tensors
from moe.errors import CheckpointError
from moe.storage import Location

_ROTARY = "rotary_emb.inv_freq"
"""A buffer that old versions of transformers saved; it follows from config.json."""


class Checkpoint:
    """One model: its architecture, and its tensors under our names.

    ``notes`` are sentences about what of the directory is read otherwise than ``config.json`` says,
    and what is left aside.
    """

    def __init__(self, path: Location, found: Architecture, shards: Shards, layout: Layout) -> None:
        self.path = path
        self.config: ModelConfig = found.config
        self.notes = found.notes
        self.shards = shards
        self._layout = layout

    @classmethod
    def open(cls, path: Location, manifest: Manifest | None = None) -> "Checkpoint":
        """Open a directory and check that every tensor is there in its right shape.

        With the manifest of a training checkpoint every tensor must lie where it says, and what is
        read is checked against its hashes.
        """
        if not path.is_dir():
            raise CheckpointError(f"no model directory at {path}")
        config = read_config(read_json(path / "config.json"))
        if manifest is None:
            files, hashes = weight_files(path), None
        else:
            files = _listed(path, manifest)
            hashes = {name: tensor.sha256 for name, tensor in manifest.tensors.items()}
        found = settled(config, path, files)
        checkpoint = cls(path, found, Shards(files, hashes), layout_of(found.config, files))
        checkpoint._check()
        return checkpoint

    def read(self, tensor: TensorSlice) -> Tensor:
        """Return the part of a tensor that a slice names, in the type it has on disk."""
        stored = self._layout.stored(tensor)
        found = self.shards.read(stored.name, stored.box)
        return found.view(tensor.held_shape)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the tensors on disk, judged by the embedding."""
        return self.dtype_of(embedding(self.config))

    def dtype_of(self, tensor: TensorSlice) -> torch.dtype:
        """Return the type one tensor has on disk."""
        return self.shards.dtype(self._layout.stored(tensor).name)

    def _check(self) -> None:
        stored = map(self._layout.stored, tensors(self.config))
        expected = {found.name: found.shape for found in stored}
        aside = {name for name in self.shards.names if name.endswith(_ROTARY)}
        if aside:
            self.notes += (
                f"{len(aside)} buffers of rotary embeddings in {self.path}, the first is "
                f"{min(aside)}, are left aside; they follow from config.json",
            )
        twice = {HEAD} if self.config.tie_embeddings else set()
        check_names(
            self.path, expected.keys(), self.shards.names - aside - (twice - expected.keys())
        )
        for name, shape in expected.items():
            if self.shards.shape(name) != shape:
                raise CheckpointError(
                    f"{name} in {self.path} has shape {self.shards.shape(name)}, "
                    f"config.json asks for {shape}; they are not of one model: copy both again, "
                    "or correct config.json"
                )
            self.shards.dtype(name)


def _listed(path: Location, manifest: Manifest) -> dict[str, Location]:
    """Return the files of a training checkpoint, which its index must place as its manifest."""
    index = weight_map(path, INDEX)
    files = {name: tensor.file for name, tensor in manifest.tensors.items()}
    for name in sorted(index.keys() | files.keys()):
        if index.get(name) != files.get(name):
            raise CheckpointError(
                f"{name} lies in {index.get(name)} by {path / INDEX} and in {files.get(name)} by "
                "the manifest; these are not the files that were saved, take another checkpoint"
            )
    return {name: path / file for name, file in files.items()}
