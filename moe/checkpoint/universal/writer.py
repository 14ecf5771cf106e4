"""A universal checkpoint written parameter by parameter, for any ZeRO stage and ranks.

DeepSpeed's own converter writes one form from ZeRO-1 and -2, another from ZeRO-3, and each loads
only into its own. Written here is what both forms have in common, with the files of both, so one
directory loads into every stage. A loading engine takes rate, betas and epsilon from here, for as
many groups as it has; which weights decay is left to it, because it matches groups by their order
alone and ZeRO-3 gives all of them what the first has.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from moe.checkpoint.universal.layout import (
    LATEST,
    MODEL_STATES,
    OPTIMIZER_STATE,
    PARAM,
    STATES,
    STEP,
    VERSION,
    WEIGHT,
    ZERO,
    ZERO3_MODEL_STATES,
)
from moe.checkpoint.universal.parameters import Parameter
from moe.errors import CheckpointError

StepKind = Literal["tensor", "integer"]
"""What the loading optimiser counts steps in: torch's in a tensor, DeepSpeed's own in an int."""


@dataclass(frozen=True, slots=True)
class AdamSettings:
    """What AdamW uses in the next step for every parameter alike."""

    lr: float
    betas: tuple[float, float]
    eps: float


class UniversalWriter:
    """Writes below ``directory``; ``finish`` makes it a checkpoint."""

    def __init__(self, directory: Path, step: int, kind: StepKind) -> None:
        self._root = directory
        self._tag = directory / f"global_step{step}_universal"
        self._count = step
        self._step: Tensor | int = torch.tensor(float(step)) if kind == "tensor" else step
        self._trained = 0
        (self._tag / ZERO).mkdir(parents=True)

    def write(self, parameter: Parameter, read: Callable[[str], Tensor]) -> None:
        """Write the weight of a parameter and, if it is trained, its moments, one after another.

        ``read`` is asked for each by the name of its file, so memory holds one.
        """
        folder = self._tag / ZERO / parameter.name
        folder.mkdir()
        for state in STATES if parameter.trained else (WEIGHT,):
            value = read(state)
            if tuple(value.shape) != parameter.shape:
                raise CheckpointError(
                    f"{state} of {parameter.name} has shape {tuple(value.shape)}, "
                    f"the parameter has {parameter.shape}"
                )
            _save({PARAM: value.float().contiguous()}, folder / f"{state}.pt")
        if parameter.trained:
            _save(self._step, folder / f"{STEP}.pt")
            self._trained += 1

    def finish(self, settings: AdamSettings, sequences: int) -> None:
        """Write what parameters have in common, and the name of the latest checkpoint.

        ``sequences`` is how many the run has seen. No engine has more groups than parameters.
        """
        group: dict[str, Any] = {"params": [], **asdict(settings)}
        groups = [dict(group) for _ in range(self._trained)]
        common = {
            "ds_version": VERSION,
            "param_groups": groups,
            "optimizer_state_dict": {"state": {0: {STEP: self._step}}, "param_groups": groups},
        }
        _save(common, self._tag / ZERO / OPTIMIZER_STATE)
        model = {
            "module": {},
            "global_steps": self._count,
            "global_samples": sequences,
            "skipped_steps": 0,
            "dp_world_size": 1,
            "mp_world_size": 1,
            "lr_scheduler": {"last_batch_iteration": self._count - 1},
            "ds_version": VERSION,
        }
        for name in (MODEL_STATES, ZERO3_MODEL_STATES):
            _save(model, self._tag / name)
        (self._root / LATEST).write_text(self._tag.name, encoding="utf-8")


def _save(value: Any, path: Path) -> None:
    """Save a value and wait for the disk."""
    with path.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
