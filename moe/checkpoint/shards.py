"""Safetensors files of one directory, and which tensor lies in which."""

from collections.abc import Mapping

import torch
from torch import Tensor

from moe.checkpoint.digest import sha256
from moe.checkpoint.shard_files import NAMED, ShardFile, open_shard
from moe.config.json_file import read_json
from moe.errors import CheckpointError
from moe.storage import Location


class Shards:
    """Which tensor lies in which file; files are opened lazily and checked on opening.

    With ``hashes``, by name, the files must hold these tensors and no others, and every tensor read
    is read whole and checked.
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

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int = 0) -> Tensor:
        """Return a tensor, or its span ``[start, stop)`` along ``dim``."""
        file = self._file(name)
        if self._hashes is None or name in self._checked:
            return file.read(name, dim, start, stop)
        whole = file.read(name)
        self._check(name, sha256(whole), self._hashes)
        return whole if dim is None else whole.narrow(dim, start, stop - start)

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
            if self._hashes is not None:
                self._check_names(path, file)
            self._open[path] = file
        if name not in self._open[path].names:
            raise CheckpointError(f"{path} does not hold {name}, as its index says")
        return self._open[path]

    def _check_names(self, path: Location, file: ShardFile) -> None:
        expected = {name for name, own in self._files.items() if own == path}
        for name in sorted(file.names - expected):
            other = self._files.get(name)
            what = f"and in {other}" if other else "but the manifest knows no such tensor"
            raise CheckpointError(
                f"{name} lies in {path} {what}; these are not the files that were saved, "
                "copy them again or take another checkpoint"
            )
        for name in sorted(expected - file.names):
            raise CheckpointError(f"{path} does not hold {name}, as its manifest says")


def open_shards(directory: Location, index: str) -> Shards:
    """Open the shards that an index file of a directory names."""
    return Shards({name: directory / file for name, file in weight_map(directory, index).items()})


def weight_map(directory: Location, index: str) -> dict[str, str]:
    """Return which file of a directory holds which tensor, as an index file says."""
    table = read_json(directory / index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{directory / index} has no weight_map")
    if not all(isinstance(file, str) for file in table.values()):
        raise CheckpointError(f"{directory / index} has a weight_map that names no files")
    return table
