"""A training checkpoint opened to make another one of: all its digits, and a count of its bytes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe.checkpoint.manifest import MANIFEST, Manifest, load_manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MASTER, MOMENTS
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, tensors
from moe.errors import CheckpointError
from moe.surgery.output import Progress

_FLOAT_BYTES = 4


class ExactWeights(Checkpoint):
    """The weights of a training checkpoint in float32; of a bf16 run, the masters."""

    moments: Moments

    def read(self, tensor: TensorSlice) -> Tensor:
        """Return a slice of a tensor."""
        if self.moments.has(tensor, MASTER):
            return self.moments.read(tensor, MASTER)
        return super().read(tensor).float()

    def dtype_of(self, tensor: TensorSlice) -> torch.dtype:
        """The dtype of what is read."""
        return torch.float32


@dataclass(frozen=True, slots=True)
class TrainingCheckpoint:
    """What a training checkpoint holds: weights, moments, and the rest in its manifest."""

    path: Path
    weights: ExactWeights
    moments: Moments
    manifest: Manifest

    @classmethod
    def open(
        cls, path: Path, otherwise: str = "start from the model directly"
    ) -> "TrainingCheckpoint":
        """Open a directory; CheckpointError if it is a model and not a training checkpoint.

        ``otherwise`` is what else can be done with a model.
        """
        if not (path / MANIFEST).is_file():
            Checkpoint.open(path)
            raise CheckpointError(
                f"{path} is a model, not a training checkpoint: it has no {MANIFEST}, so there are "
                f"no moments to carry over; give a step-... directory of a run, or {otherwise}"
            )
        manifest = load_manifest(path)
        weights, moments = ExactWeights.open(path, manifest), Moments.open(path, manifest)
        weights.moments = moments
        return cls(path, weights, moments, manifest)


class Counted:
    """Reports how many bytes of all weights and moments of a model have passed."""

    def __init__(self, config: ModelConfig, progress: Progress) -> None:
        each = ((1 + len(MOMENTS) * t.role.trained) * t.elements for t in tensors(config))
        self.total = _FLOAT_BYTES * sum(each)
        self._done = 0
        self._progress = progress

    def passed(self, value: Tensor) -> Tensor:
        """Count a value in float32, and return it."""
        self._done += _FLOAT_BYTES * value.numel()
        self._progress(self._done, self.total)
        return value
