"""The projectors of experts: which matrices have one, and the names under which they are saved.

The gate and the up projection of an expert have the same inputs, so one projector serves both.
"""

from dataclasses import replace

from moe.config.tensors import TensorSlice

PROJECTOR = "projector"
"""The name of this state of the optimiser; a checkpoint has it in pieces, as it has moments."""


def has_projector(part: TensorSlice) -> bool:
    """Return whether a projector is kept under the name of a tensor."""
    return part.role.expert is not None and part.role.part in ("gate", "down")


def projector_shape(part: TensorSlice) -> tuple[int, int]:
    """Return the shape of the projector of a matrix: its inputs, squared."""
    return part.shape[1], part.shape[1]


def projector_of(part: TensorSlice) -> TensorSlice:
    """Return a projector as a tensor that a checkpoint can hold."""
    return replace(part, shape=projector_shape(part))
