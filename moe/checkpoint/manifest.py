"""The manifest of a training checkpoint: written last, so its presence makes the rest count.

A training checkpoint is a model directory that any loader reads, an ``optimizer`` directory beside
the weights, and this file.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe.checkpoint.writer import write_json
from moe.config.balance_state import BalanceState, read_state
from moe.config.json_file import read_json
from moe.errors import CheckpointError

MANIFEST = "raymoe.json"
OPTIMIZER = "optimizer"
OPTIMIZER_INDEX = "optimizer.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run must know to continue: steps done, which is also the position in the data; the
    balance of each layer with experts; the plan and the run that wrote it; a fingerprint of the
    data; the size of every file.
    """

    step: int
    balance: Mapping[int, BalanceState]
    plan: Mapping[str, Any]
    run: Mapping[str, Any]
    data: str
    files: Mapping[str, int]

    @property
    def coefficients(self) -> dict[int, float]:
        """Coefficient of the balance loss by layer."""
        return {layer: state.coefficient for layer, state in self.balance.items()}

    def save(self, directory: Path) -> None:
        """Write the manifest; the caller has written everything else."""
        write_json(directory / MANIFEST, asdict(self))


def file_sizes(directory: Path) -> dict[str, int]:
    """Return the size in bytes of every file below a directory, by relative name."""
    return {
        str(path.relative_to(directory)): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def load_manifest(directory: Path) -> Manifest:
    """Read a manifest and check that every file it lists has its size."""
    table = read_json(directory / MANIFEST)
    try:
        manifest = Manifest(
            step=int(table["step"]),
            balance={int(k): read_state(v) for k, v in table["balance"].items()},
            plan=table["plan"],
            run=table["run"],
            data=table["data"],
            files=table["files"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{directory / MANIFEST} is not a manifest: {error}") from error
    for name, size in manifest.files.items():
        path = directory / name
        found = path.stat().st_size if path.exists() else None
        if found != size:
            raise CheckpointError(
                f"{path} has {found} bytes, its manifest says {size}; the checkpoint is damaged"
            )
    return manifest


def checkpoints(directory: Path) -> list[Path]:
    """Return the complete checkpoints below a directory, oldest first."""
    return sorted(path.parent for path in directory.glob(f"step-*/{MANIFEST}"))


def step_directory(directory: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return directory / f"step-{step:08d}"
