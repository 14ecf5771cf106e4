"""A universal checkpoint for reading: our tensors, their moments, and the step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe.checkpoint.universal.layout import (
    OPTIMIZER_STATE,
    PARAM,
    STATES,
    STEP,
    WEIGHT,
    ZERO,
    check_whole,
    tag_directory,
)
from moe.checkpoint.universal.parameters import STACKING, Parameter, Part, parameters
from moe.checkpoint.universal.pickles import load, load_checked
from moe.config.model import ModelConfig
from moe.config.tensors import HEAD
from moe.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class UniversalCheckpoint:
    """The parameters of one model as DeepSpeed saved them, checked to be complete.

    ``step`` is the optimiser's step: the number of updates of the moments.
    """

    tag: Path
    config: ModelConfig
    parameters: tuple[Parameter, ...]
    step: int

    @classmethod
    def open(cls, path: Path, config: ModelConfig) -> "UniversalCheckpoint":
        """Open a directory and check every parameter's files: checksums, types and shapes."""
        tag = tag_directory(path)
        check_whole(tag)
        found = _parameters(tag, config)
        for parameter in found:
            _check(tag, parameter)
        return cls(tag, config, tuple(found), _step(tag, found))

    @property
    def files(self) -> list[Path]:
        """The files that are read, sorted."""
        names = (f"{state}.pt" for state in (*STATES, STEP))
        paths = [_folder(self.tag, each) / name for name in names for each in self.parameters]
        common = self.tag / ZERO / OPTIMIZER_STATE
        return sorted(path for path in (*paths, common) if path.is_file())

    def parts(self) -> Iterator[tuple[Parameter, Part]]:
        """Yield our tensors, each with the parameter that holds it."""
        return ((each, part) for each in self.parameters for part in each.parts)

    def read(self, parameter: Parameter, part: Part, state: str = WEIGHT) -> Tensor:
        """Map one of our tensors: its weight or one of its moments; raises unless all values are
        finite.
        """
        path = _folder(self.tag, parameter) / f"{state}.pt"
        value = part.of(_tensor(load(path), path).view(parameter.shape))
        if not value.isfinite().all():
            raise CheckpointError(
                f"{part.tensor.name} in {path} holds NaN or infinity; give a checkpoint from "
                "before training diverged"
            )
        return value


def _parameters(tag: Path, config: ModelConfig) -> list[Parameter]:
    """Return the parameters of the module, with experts stacked or separate as in the files."""
    held = {path.name for path in (tag / ZERO).iterdir() if path.is_dir()}
    together = parameters(config, stacked=True) if config.family in STACKING else []
    stacked = any(each.stacked and each.name in held for each in together)
    wanted = together if stacked else parameters(config, stacked=False)
    missing = sorted({each.name for each in wanted} - held)
    extra = sorted(held - {each.name for each in wanted} - {HEAD})
    if extra:
        raise CheckpointError(
            f"{tag / ZERO} has {len(extra)} parameters that a {config.family} model of this "
            f"config.json does not have, the first is {extra[0]}"
            + (f", and lacks {missing[0]}" if missing else "")
            + "; give the config.json that was trained. Models that DeepSpeed rebuilt (AutoEP, "
            "its own MoE layer, pipeline modules) have other names and are not read"
        )
    if missing:
        buffer = not next(each for each in wanted if each.name == missing[0]).trained
        raise CheckpointError(
            f"{tag / ZERO} lacks {len(missing)} parameters, the first is {missing[0]}; "
            + (
                "it is a buffer, which ds_to_universal keeps from ZeRO-1 and ZeRO-2 only"
                if buffer
                else "run ds_to_universal again into an empty directory, or copy it whole"
            )
        )
    return wanted


def _check(tag: Path, parameter: Parameter) -> None:
    folder = _folder(tag, parameter)
    states = STATES if parameter.trained else (WEIGHT,)
    missing = [state for state in states if not (folder / f"{state}.pt").is_file()]
    if WEIGHT in missing:
        raise CheckpointError(
            f"{folder} has no {WEIGHT}.pt; run ds_to_universal again into an empty directory, or "
            "copy it whole"
        )
    if missing:
        raise CheckpointError(
            f"{folder} has no {missing[0]}.pt: DeepSpeed gave {parameter.name} no moments of Adam. "
            "It was frozen or another optimiser was used; raymoe continues AdamW over all weights. "
            "To begin anew from the weights alone, save the model with transformers"
        )
    for state in states:
        path = folder / f"{state}.pt"
        value = _tensor(load_checked(path), path)
        flat = value.dim() == 1 and value.numel() == torch.Size(parameter.shape).numel()
        if tuple(value.shape) != parameter.shape and not flat:
            raise CheckpointError(
                f"{folder / state}.pt has shape {tuple(value.shape)}, config.json asks for "
                f"{parameter.shape}; give the config.json that was trained"
            )


def _tensor(found: Any, path: Path) -> Tensor:
    """Return the tensor that a file holds: bare from ZeRO-3, else in a table."""
    value = found.get(PARAM) if isinstance(found, Mapping) else found
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(f"{path} holds {kind}, not a tensor of floating-point numbers")
    return value


def _step(tag: Path, found: list[Parameter]) -> int:
    """Return the common step of all parameters, from their files or from the common file."""
    trained = [each for each in found if each.trained]
    files = [_folder(tag, each) / f"{STEP}.pt" for each in trained]
    there = [path for path in files if path.is_file()]
    if there and len(there) < len(files):
        absent = next(path for path in files if path not in there)
        raise CheckpointError(
            f"{absent} is missing, but other parameters have this file; run ds_to_universal again "
            "into an "
            "empty directory, or copy it whole"
        )
    common = tag / ZERO / OPTIMIZER_STATE
    said = [(_number(load_checked(path), path), path) for path in there] or [
        (number, common) for number in _common_steps(common)
    ]
    if not said:
        raise CheckpointError(
            f"{tag / ZERO} does not say how many steps Adam has done: there is no {STEP}.pt beside "
            f"the moments and no step in {common.name}; train with torch's AdamW, FusedAdam or "
            "DeepSpeedCPUAdam"
        )
    (few, low), (many, high) = min(said), max(said)
    if few != many:
        raise CheckpointError(
            f"{low} says {few} steps, {high} says {many}; raymoe continues only if all parameters "
            "have done the same number of steps"
        )
    return few


def _common_steps(path: Path) -> set[int]:
    """Return the steps in the optimiser's states and groups."""
    table = _table(load(path))
    states = _table(_table(table.get("optimizer_state_dict")).get("state")).values()
    groups = table.get("param_groups")
    holders = [*states, *(groups if isinstance(groups, list) else ())]
    return {_number(each[STEP], path) for each in map(_table, holders) if STEP in each}


def _table(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any, path: Path) -> int:
    plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not isinstance(plain, int | float) or plain != int(plain) or plain < 0:
        raise CheckpointError(f"{path} has {value!r} for a step; it must be a whole number")
    return int(plain)


def _folder(tag: Path, parameter: Parameter) -> Path:
    return tag / ZERO / parameter.name
