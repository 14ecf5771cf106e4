"""The factors in a checkpoint of a run with LoRA, which holds nothing else of its model."""

from torch import Tensor

from moe.checkpoint.manifest import Manifest
from moe.checkpoint.names import disk_name
from moe.checkpoint.overlaps import narrowed
from moe.checkpoint.shards import Shards
from moe.config.tensors import TensorSlice
from moe.storage import Location


class SavedFactors:
    """Reads factors, or parts of them; every one that is read is checked against its hash."""

    def __init__(self, directory: Location, manifest: Manifest, family: str) -> None:
        stored = manifest.tensors
        files = {name: directory / each.file for name, each in stored.items()}
        self._shards = Shards(files, {name: each.sha256 for name, each in stored.items()})
        self._family = family

    def read(self, part: TensorSlice) -> Tensor:
        """Return a part of a factor in float32."""
        return narrowed(self._shards.read(disk_name(self._family, part.name)), part)
