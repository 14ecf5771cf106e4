"""The manifest of a training checkpoint: written last, so its presence marks a complete checkpoint.

A training checkpoint is a model directory that any loader reads, an ``optimizer`` directory beside
the weights, and this file. The manifest has the hash of every stored tensor; a rank checks the
tensors that it reads. The manifest also has its own hash and the hash of every other file, such as
config.json; every reader of the manifest checks these, so a run never continues from edited files.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, cast

from moe.checkpoint.digest import file_sha256
from moe.checkpoint.header import cut_off
from moe.checkpoint.records import Piece, StoredTensor, read_piece, read_tensor
from moe.checkpoint.writer import write_json
from moe.config.balance_state import BalanceState, read_state
from moe.config.json_file import read_json
from moe.config.products import UNRECORDED, Products, by_processor, read_products
from moe.errors import CheckpointError, ConfigError
from moe.storage import Location, P, sizes

MANIFEST = "raymoe.json"
OPTIMIZER = "optimizer"
FORMAT = 3
"""Version of the layout described here; format 2 had hashes of tensors only, format 1 had undivided
moments.
"""

_READ = (2, FORMAT)
_SEAL = "sha256"
"""The key of the hash over all other keys, from format 3 on."""
_STEP = re.compile(r"step-(\d+)")
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Manifest:
    """The state that a run needs to continue.

    ``step`` counts the steps done. It also gives the position in the data and the state of all
    randomness: the order of sequences is a function of the step and of ``data.seed`` in ``run``,
    and nothing else in training draws random numbers, so there is no generator state to save.
    ``balance`` has the balance state of each layer with experts; ``plan`` and ``run`` wrote the
    checkpoint; ``data`` is a fingerprint of the token shards; ``files`` has the size of every file,
    ``tensors`` the weights by name, ``pieces`` the moments of the optimiser; ``hashes`` has the
    hashes of all other files, and is empty for format 2; ``products`` has the rules of products on
    each kind of processor that trained. ``frozen`` is a hash of the model that frozen tensors are
    those of; empty where nothing is frozen.
    """

    step: int
    balance: Mapping[int, BalanceState]
    plan: Mapping[str, Any]
    run: Mapping[str, Any]
    data: str
    files: Mapping[str, int]
    hashes: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]
    pieces: tuple[Piece, ...]
    products: Mapping[str, Products]
    frozen: str = ""

    @property
    def coefficients(self) -> dict[int, float]:
        """Coefficient of the balance loss by layer."""
        return {layer: state.coefficient for layer, state in self.balance.items()}

    def save(self, directory: Location) -> None:
        """Write the manifest; the caller must have written everything else."""
        write_json(directory / MANIFEST, sealed({"format": FORMAT, **asdict(self)}))

    def tensors_in(self, file: str) -> list[str]:
        """Return the names of the tensors that a file holds in full or in pieces."""
        held = {tensor.name for tensor in self.tensors.values() if tensor.file == file}
        return sorted(held | {piece.name for piece in self.pieces if piece.file == file})


def load_manifest(directory: Location) -> Manifest:
    """Read a manifest and check that the files are exactly the saved files.

    Files of tensors must have the right size but are not read: the reader of a tensor checks its
    hash.
    """
    path = directory / MANIFEST
    table = read_json(path)
    if table.get("format", 1) not in _READ:
        raise CheckpointError(
            f"{path} has format {table.get('format', 1)}, this version resumes formats "
            f"{' and '.join(map(str, _READ))}; begin a new run from the weights, with it as "
            "model.path"
        )
    if table["format"] == FORMAT and table.get(_SEAL) != sealed(table)[_SEAL]:
        raise CheckpointError(
            f"{path} has changed since it was saved: its own sha256 differs from the one in it; "
            "take "
            "another checkpoint, or undo the change"
        )
    manifest = _parsed(path, table)
    _check_values(path, manifest)
    _check_files(directory, manifest)
    return manifest


def sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of a manifest in JSON form, with the hash of all other values."""
    body: dict[str, Any] = json.loads(
        json.dumps({k: v for k, v in table.items() if k != _SEAL}, default=str)
    )
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return body | {_SEAL: hashlib.sha256(text.encode()).hexdigest()}


def _parsed(path: Location, table: Mapping[str, Any]) -> Manifest:
    try:
        return Manifest(
            step=int(table["step"]),
            balance={int(k): read_state(v) for k, v in table["balance"].items()},
            plan=table["plan"],
            run=table["run"],
            data=table["data"],
            files=table["files"],
            hashes={} if table["format"] == 2 else dict(table["hashes"]),
            tensors={name: read_tensor(entry) for name, entry in table["tensors"].items()},
            pieces=tuple(map(read_piece, table["pieces"])),
            products=_products(table),
            frozen=str(table.get("frozen", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path} is not a manifest: {error}") from error


def _products(table: Mapping[str, Any]) -> Mapping[str, Products]:
    """Return the rules of products; those of old checkpoints are known, though not in them."""
    if "products" not in table:
        return UNRECORDED
    return by_processor(map(read_products, table["products"].values()))


def checkpoints(directory: P) -> list[P]:
    """Return the complete checkpoints below a directory, oldest first."""
    found = [path for path in directory.glob("step-*") if (path / MANIFEST).is_file()]
    return cast(list[P], sorted(found, key=lambda path: path.name))


def step_directory(directory: P, step: int) -> P:
    """Return the location of the checkpoint of a step."""
    return cast(P, directory / f"step-{step:08d}")


def _check_values(path: Location, manifest: Manifest) -> None:
    """Raise CheckpointError if the values of a manifest are impossible for its run."""
    named = _STEP.fullmatch(path.parent.name)
    if manifest.step < 0 or (named is not None and int(named.group(1)) != manifest.step):
        raise CheckpointError(
            f"{path} says step {manifest.step} but lies in {path.parent.name}; give the directory "
            "its name back, or take another checkpoint"
        )
    rule = manifest.run.get("balance", {}).get("coefficient", {})
    highest = rule.get("maximum", rule.get("value", inf))
    for layer, state in manifest.balance.items():
        if not 0 <= state.coefficient <= highest * (1 + _ROUNDING):
            raise CheckpointError(
                f"{path} gives layer {layer} the balance coefficient {state.coefficient:g}, its "
                f"run has 0 to {highest:g}; take another checkpoint"
            )
        if not _is_spread(state):
            raise CheckpointError(
                f"{path} gives layer {layer} invalid shares or probabilities of experts; "
                "take another checkpoint"
            )


def _is_spread(state: BalanceState) -> bool:
    """Return whether shares sum to one (or all are zero) and probabilities are valid."""
    shares, whole = state.shares, sum(state.shares)
    return (
        len(shares) == len(state.probabilities)
        and all(0 <= each <= 1 + _ROUNDING for each in (*shares, *state.probabilities))
        and (whole == 0 or abs(whole - 1) <= _ROUNDING)
    )


def _check_files(directory: Location, manifest: Manifest) -> None:
    found = sizes(directory)
    for name, size in manifest.files.items():
        if found.get(name) != size:
            raise CheckpointError(
                f"{directory / name} has {found.get(name, 'no')} bytes, its manifest says {size}; "
                f"{_lost(directory / name, manifest.tensors_in(name))}take another checkpoint"
            )
    for name, digest in manifest.hashes.items():
        if file_sha256(directory / name) != digest:
            raise CheckpointError(
                f"{directory / name} has changed since it was saved: its sha256 differs from the "
                "one in its manifest; undo the change, or take another checkpoint"
            )
    for name in sorted(found.keys() - manifest.files.keys()):
        if name.endswith(".safetensors"):
            raise CheckpointError(
                f"{directory / name} is a file that its manifest does not list, so a tensor may "
                "be stored twice; remove it, or take another checkpoint"
            )


def _lost(path: Location, held: list[str]) -> str:
    """Return the tensors that a file of the wrong size has lost, as far as its header shows."""
    lost = sorted({key.partition("[")[0] for key in cut_off(path)}) or held
    if not lost:
        return ""
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return f"{lost[0]}{more} cannot be trusted; "
