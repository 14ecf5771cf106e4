"""The manifest of a training checkpoint: written last, so its presence makes the rest count.

A training checkpoint is a model directory that any loader reads, an ``optimizer`` directory beside
the weights, and this file. It keeps the hash of every stored tensor; a rank checks those it reads.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from moe.checkpoint.header import cut_off
from moe.checkpoint.records import Piece, StoredTensor, read_piece, read_tensor
from moe.checkpoint.writer import write_json
from moe.config.balance_state import BalanceState, read_state
from moe.config.json_file import read_json
from moe.errors import CheckpointError
from moe.storage import Location, P, sizes

MANIFEST = "raymoe.json"
OPTIMIZER = "optimizer"
FORMAT = 2
"""Version of the layout described here; 1 had whole moments and no hashes."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run must know to continue.

    ``step`` counts the steps done. It is also the position in the data and the state of all
    randomness: the order of sequences is a function of the step and of ``data.seed`` in ``run``,
    and nothing else in training draws random numbers, so no generator has a state to keep.
    ``balance`` is that of each layer with experts; ``plan`` and ``run`` are those that wrote it;
    ``data`` is a fingerprint of the token shards; ``files`` the size of every file; ``tensors``
    the weights by name, ``pieces`` the moments of the optimiser.
    """

    step: int
    balance: Mapping[int, BalanceState]
    plan: Mapping[str, Any]
    run: Mapping[str, Any]
    data: str
    files: Mapping[str, int]
    tensors: Mapping[str, StoredTensor]
    pieces: tuple[Piece, ...]

    @property
    def coefficients(self) -> dict[int, float]:
        """Coefficient of the balance loss by layer."""
        return {layer: state.coefficient for layer, state in self.balance.items()}

    def save(self, directory: Location) -> None:
        """Write the manifest; the caller has written everything else."""
        write_json(directory / MANIFEST, {"format": FORMAT, **asdict(self)})

    def tensors_in(self, file: str) -> list[str]:
        """Return the names of the tensors that a file holds, or holds pieces of."""
        held = {tensor.name for tensor in self.tensors.values() if tensor.file == file}
        return sorted(held | {piece.name for piece in self.pieces if piece.file == file})


def load_manifest(directory: Location) -> Manifest:
    """Read a manifest and check that the files it lists are there in their sizes, and no others.

    The files themselves are not read: whoever reads a tensor checks its hash.
    """
    table = read_json(directory / MANIFEST)
    if table.get("format") != FORMAT:
        raise CheckpointError(
            f"{directory / MANIFEST} has format {table.get('format', 1)}, this version resumes "
            f"format {FORMAT}; begin a new run from the weights, with it as model.path"
        )
    try:
        manifest = Manifest(
            step=int(table["step"]),
            balance={int(k): read_state(v) for k, v in table["balance"].items()},
            plan=table["plan"],
            run=table["run"],
            data=table["data"],
            files=table["files"],
            tensors={name: read_tensor(entry) for name, entry in table["tensors"].items()},
            pieces=tuple(map(read_piece, table["pieces"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{directory / MANIFEST} is not a manifest: {error}") from error
    _check_files(directory, manifest)
    return manifest


def checkpoints(directory: P) -> list[P]:
    """Return the complete checkpoints below a directory, oldest first."""
    found = [path for path in directory.glob("step-*") if (path / MANIFEST).is_file()]
    return cast(list[P], sorted(found, key=lambda path: path.name))


def step_directory(directory: P, step: int) -> P:
    """Return where the checkpoint of a step lies."""
    return cast(P, directory / f"step-{step:08d}")


def _check_files(directory: Location, manifest: Manifest) -> None:
    found = sizes(directory)
    for name, size in manifest.files.items():
        if found.get(name) != size:
            raise CheckpointError(
                f"{directory / name} has {found.get(name, 'no')} bytes, its manifest says {size}; "
                f"{_lost(directory / name, manifest.tensors_in(name))}take another checkpoint"
            )
    for name in sorted(found.keys() - manifest.files.keys()):
        if name.endswith(".safetensors"):
            raise CheckpointError(
                f"{directory / name} is a file its manifest does not list, so a tensor may be "
                "there twice; remove it, or take another checkpoint"
            )


def _lost(path: Location, held: list[str]) -> str:
    """Return which tensors a file of the wrong size has lost, as far as can be told."""
    lost = sorted({key.partition("[")[0] for key in cut_off(path)}) or held
    if not lost:
        return ""
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return f"{lost[0]}{more} cannot be trusted; "
