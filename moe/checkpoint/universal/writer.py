"""A universal checkpoint written parameter by parameter, for any ZeRO stage and ranks.

DeepSpeed's own converter writes one form from ZeRO-1 and -2 and another from ZeRO-3, and each form
loads only into its own stages. This writer writes the common part and the files of both forms, so
one directory loads into every stage. A loading engine takes learning rate, betas and epsilon from
here, for all its parameter groups. The engine decides which weights decay, because it matches
groups only by their order, and ZeRO-3 gives all groups the values of the first.
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
"""Type of the step counter of the loading optimiser: a tensor for torch's, an int for
DeepSpeed's.
"""


@dataclass(frozen=True, slots=True)
class AdamSettings:
    """The settings that AdamW uses in the next step for every parameter."""

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
        """Write the weight of a parameter and, if it is trained, its moments.

        ``read`` returns each by the name of its file, so memory holds one at a time.
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
        """Write the files common to all parameters, and the name of the latest checkpoint.

        ``sequences`` is the number of sequences trained on. No engine has more groups than
        parameters.
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
    """Save a value and wait until it is on disk."""
    with path.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
