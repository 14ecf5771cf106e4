"""The safetensors files of one directory, and the file of each tensor."""

from collections.abc import Mapping

import torch
from torch import Tensor

from moe.checkpoint.boxes import Box
from moe.checkpoint.digest import sha256
from moe.checkpoint.shard_files import NAMED, ShardFile, open_shard
from moe.errors import CheckpointError
from moe.storage import Location


class Shards:
    """The file of each tensor; files are opened lazily and checked when opened.

    The files must hold exactly these tensors. With ``hashes``, by name, every tensor is read in
    full and checked.
    """

    def __init__(
        self, files: Mapping[str, Location], hashes: Mapping[str, str] | None = None
    ) -> None:
        self._files = files
        self._hashes = hashes
        self._open: dict[Location, ShardFile] = {}
        self._checked: set[str] = set()

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._files)

    @property
    def paths(self) -> tuple[Location, ...]:
        """The files, each once, sorted."""
        return tuple(sorted(set(self._files.values()), key=str))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return self._file(name).shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of a tensor without reading it."""
        found = self._file(name).dtype(name)
        if found not in NAMED:
            raise CheckpointError(
                f"{name} in {self._files[name]} is {found}; raymoe reads {', '.join(NAMED)}, "
                "convert the model to one of them"
            )
        return NAMED[found]

    def read(self, name: str, box: Box | None = None) -> Tensor:
        """Return a tensor, or a box of it."""
        file = self._file(name)
        if self._hashes is None or name in self._checked:
            return file.read(name, box)
        whole = file.read(name)
        self._check(name, sha256(whole), self._hashes)
        return whole if box is None else whole[tuple(slice(*span) for span in box)]

    def _check(self, name: str, found: str, hashes: Mapping[str, str]) -> None:
        if found != hashes[name]:
            others = [other for other, own in hashes.items() if own == found]
            what = f"are those of {others[0]}" if others else "have changed since it was saved"
            raise CheckpointError(
                f"{name} in {self._files[name]} is damaged: its bytes {what} (sha256 is {found}, "
                f"the manifest says {hashes[name]}); copy it again or take another checkpoint"
            )
        self._checked.add(name)

    def _file(self, name: str) -> ShardFile:
        path = self._files.get(name)
        if path is None:
            raise CheckpointError(f"tensor {name} is in none of the files; the model is incomplete")
        if path not in self._open:
            file = open_shard(path)
            self._check_names(path, file)
            self._open[path] = file
        return self._open[path]

    def _check_names(self, path: Location, file: ShardFile) -> None:
        """Raise CheckpointError unless a file holds exactly its expected tensors."""
        listed = "index" if self._hashes is None else "manifest"
        expected = {name for name, own in self._files.items() if own == path}
        faults = []
        if lost := sorted(expected - file.names):
            faults.append(f"{path} does not hold {lost[0]}, as its {listed} says")
        if more := sorted(file.names - expected):
            other = self._files.get(more[0])
            what = f"and in {other}" if other else f"but the {listed} has no such tensor"
            faults.append(f"{more[0]} lies in {path} {what}")
        if faults:
            raise CheckpointError(
                f"{'; '.join(faults)}; these are not the files that were saved, copy them again "
                "or take another checkpoint"
            )
