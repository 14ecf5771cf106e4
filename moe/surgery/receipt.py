"""The JSON that a conversion writes beside its output: method, input, accuracy."""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe import __version__
from moe.checkpoint.card.steps import RECEIPT
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.writer import write_json
from moe.storage import local
from moe.surgery.distance import LogitDistance

_CHUNK = 2**22


@dataclass(frozen=True, slots=True)
class Receipt:
    """Method, options and seed; SHA-256 of files read and written; logits before and after.

    ``source_files`` are the configuration and the weights that were read; ``files`` are all written
    files except the receipt. ``notes`` list differences from the source's ``config.json`` and
    ignored tensors.
    """

    method: str
    options: Mapping[str, Any]
    seed: int
    source: str
    source_files: Mapping[str, str]
    files: Mapping[str, str]
    distance: LogitDistance
    notes: tuple[str, ...]

    def save(self, directory: Path) -> None:
        """Write ``receipt.json``."""
        write_receipt(directory, asdict(self))


def write_receipt(directory: Path, table: Mapping[str, Any]) -> None:
    """Write ``receipt.json``: the table and the version of raymoe."""
    write_json(directory / RECEIPT, {"raymoe": __version__, **table})


def written(directory: Path, shards: Mapping[str, Future[str]]) -> dict[str, str]:
    """Return the SHA-256 of all files of a directory, whose shards were hashed meanwhile."""
    rest = tuple(path for path in directory.iterdir() if path.name not in shards)
    found = {name: shard.result() for name, shard in shards.items()} | hashes(rest)
    return dict(sorted(found.items()))


def hashes_of(model: Checkpoint) -> dict[str, str]:
    """Return the SHA-256 of the configuration and the weights of a model."""
    return hashes((local(model.path) / "config.json", *map(local, model.shards.paths)))


def hashes(paths: tuple[Path, ...]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name."""
    return {path.name: _hash(path) for path in paths}


def hashes_below(directory: Path, files: Iterable[Path] | None = None) -> dict[str, str]:
    """Return the SHA-256 of files by their relative name below a directory; default: of all
    files.
    """
    found = directory.rglob("*") if files is None else files
    paths = sorted(path for path in found if path.is_file())
    return {str(path.relative_to(directory)): _hash(path) for path in paths}


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
