"""A Hugging Face model directory, opened for reading by tensor name and slice."""

import torch
from torch import Tensor

from moe.checkpoint.manifest import Manifest
from moe.checkpoint.names import disk_name
from moe.checkpoint.shard_files import open_shard
from moe.checkpoint.shards import Shards, open_shards, weight_map
from moe.config.families import read_config
from moe.config.json_file import read_json
from moe.config.model import ModelConfig
from moe.config.tensors import EMBEDDING, HEAD, TensorSlice, tensors
from moe.errors import CheckpointError
from moe.storage import Location

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Checkpoint:
    """One model: its architecture, and its tensors under our names."""

    def __init__(self, path: Location, config: ModelConfig, shards: Shards) -> None:
        self.path = path
        self.config = config
        self.shards = shards

    @classmethod
    def open(cls, path: Location, manifest: Manifest | None = None) -> "Checkpoint":
        """Open a directory and check that every tensor is there in its right shape.

        With the manifest of a training checkpoint every tensor must lie where it says, and what is
        read is checked against its hashes.
        """
        if not path.is_dir():
            raise CheckpointError(f"no model directory at {path}")
        config = read_config(read_json(path / "config.json"))
        shards = _find(path) if manifest is None else _listed(path, manifest)
        checkpoint = cls(path, config, shards)
        checkpoint._check()
        return checkpoint

    def read(self, tensor: TensorSlice) -> Tensor:
        """Return the part of a tensor that a slice names, in the type it has on disk."""
        name = disk_name(self.config.family, tensor.name)
        return self.shards.read(name, tensor.dim, tensor.start, tensor.stop)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the tensors on disk, judged by the embedding."""
        return self.shards.dtype(EMBEDDING)

    def dtype_of(self, tensor: TensorSlice) -> torch.dtype:
        """Return the type one tensor has on disk."""
        return self.shards.dtype(disk_name(self.config.family, tensor.name))

    def _check(self) -> None:
        family = self.config.family
        expected = {disk_name(family, t.name): t.shape for t in tensors(self.config)}
        missing = sorted(expected.keys() - self.shards.names)
        if missing:
            raise CheckpointError(
                f"{self.path} lacks {len(missing)} tensors, the first is {missing[0]}; "
                "the model is incomplete, copy it again"
            )
        known = expected.keys() | {HEAD}
        extra = [n for n in self.shards.names - known if not n.endswith("rotary_emb.inv_freq")]
        if extra:
            raise CheckpointError(
                f"{self.path} holds {len(extra)} tensors its config.json does not explain, "
                f"the first is {min(extra)}; the model would not be the one that was saved"
            )
        for name, shape in expected.items():
            if self.shards.shape(name) != shape:
                raise CheckpointError(
                    f"{name} in {self.path} has shape {self.shards.shape(name)}, "
                    f"config.json asks for {shape}"
                )
            self.shards.dtype(name)


def _find(path: Location) -> Shards:
    """Return the shards of a directory; where it holds both forms, the one transformers takes."""
    if (path / SINGLE).is_file():
        return Shards(dict.fromkeys(open_shard(path / SINGLE).names, path / SINGLE))
    if (path / INDEX).exists():
        return open_shards(path, INDEX)
    pickles = sorted(file.name for kind in ("bin", "pt", "pth") for file in path.glob(f"*.{kind}"))
    if pickles:
        raise CheckpointError(
            f"{path} holds {pickles[0]}, a pickle that runs code when opened, and raymoe "
            "opens none; if you trust it, convert it with transformers (from_pretrained, then "
            "save_pretrained) to safetensors, where nothing is at risk"
        )
    raise CheckpointError(f"{path} holds no {SINGLE} and no {INDEX}")


def _listed(path: Location, manifest: Manifest) -> Shards:
    """Return the shards of a training checkpoint, which its index must place as its manifest."""
    index = weight_map(path, INDEX)
    files = {name: tensor.file for name, tensor in manifest.tensors.items()}
    for name in sorted(index.keys() | files.keys()):
        if index.get(name) != files.get(name):
            raise CheckpointError(
                f"{name} lies in {index.get(name)} by {path / INDEX} and in {files.get(name)} by "
                "the manifest; these are not the files that were saved, take another checkpoint"
            )
    return Shards(
        {name: path / file for name, file in files.items()},
        {name: tensor.sha256 for name, tensor in manifest.tensors.items()},
    )
