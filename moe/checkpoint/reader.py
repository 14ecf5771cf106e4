"""A Hugging Face model directory, opened for reading by tensor name and slice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moe.checkpoint.names import disk_name
from moe.config.families import read_config
from moe.config.json_file import read_json
from moe.config.model import ModelConfig
from moe.config.tensors import EMBEDDING, HEAD, TensorSlice, tensors
from moe.errors import CheckpointError

_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Shards:
    """Safetensors files and which tensor lies in which; opened lazily, checked on opening."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._open: dict[Path, Any] = {}

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._files)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, each once, sorted."""
        return tuple(sorted(set(self._files.values())))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of a tensor without reading it."""
        found = self._slice(name).get_dtype()
        if found not in _TYPES:
            raise CheckpointError(
                f"{name} in {self._files[name]} is {found}; raymoe reads {', '.join(_TYPES)}, "
                "convert the model to one of them"
            )
        return _TYPES[found]

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int = 0) -> Tensor:
        """Return a tensor, or its span ``[start, stop)`` along ``dim``."""
        part = self._slice(name)
        if dim is None:
            tensor: Tensor = part[...]
        else:
            tensor = part[(slice(None),) * dim + (slice(start, stop),)]
        return tensor

    def _slice(self, name: str) -> Any:
        path = self._files.get(name)
        if path is None:
            raise CheckpointError(f"tensor {name} is in none of the files; the model is incomplete")
        if path not in self._open:
            self._open[path] = _opened(path)
        try:
            return self._open[path].get_slice(name)
        except SafetensorError as error:
            raise CheckpointError(f"{path} does not hold {name}, as its index says") from error


class Checkpoint:
    """One model: its architecture, and its tensors under our names."""

    def __init__(self, path: Path, config: ModelConfig, shards: Shards) -> None:
        self.path = path
        self.config = config
        self.shards = shards

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Open a directory and check that every tensor is there in its right shape."""
        if not path.is_dir():
            raise CheckpointError(f"no model directory at {path}")
        checkpoint = cls(path, read_config(read_json(path / "config.json")), _find(path))
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


def open_shards(directory: Path, index: str) -> Shards:
    """Open the shards that an index file of a directory names."""
    weight_map = read_json(directory / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{directory / index} has no weight_map")
    if not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{directory / index} has a weight_map that names no files")
    return Shards({name: directory / file for name, file in weight_map.items()})


def _find(path: Path) -> Shards:
    """Return the shards of a directory; where it holds both forms, the one transformers takes."""
    if (path / SINGLE).is_file():
        return Shards(dict.fromkeys(_opened(path / SINGLE).keys(), path / SINGLE))
    if (path / INDEX).exists():
        return open_shards(path, INDEX)
    pickles = sorted(file for kind in ("bin", "pt", "pth") for file in path.glob(f"*.{kind}"))
    if pickles:
        raise CheckpointError(
            f"{path} holds {pickles[0].name}, a pickle that runs code when opened, and raymoe "
            "opens none; if you trust it, convert it with transformers (from_pretrained, then "
            "save_pretrained) to safetensors, where nothing is at risk"
        )
    raise CheckpointError(f"{path} holds no {SINGLE} and no {INDEX}")


def _opened(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing though the index names it") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}; copy it again") from error
