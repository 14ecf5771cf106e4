"""The parameters that transformers holds in memory, and our tensors as parts of them.

Most parameters are our tensors under the names in the files. transformers 5 stacks the experts of a
layer in two parameters for the families below, whatever lies on disk: ``experts.gate_up_proj`` [N,
2F, D] with the rows of the gate before those of the up projection, and ``experts.down_proj`` [N, D,
F]; before version 5, and in code stored with a checkpoint, experts are separate.
"""

from dataclasses import dataclass

from torch import Tensor

from moe.checkpoint.names import disk_name, fused_name
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, layer_prefix, tensors

STACKING = frozenset({"mixtral", "skywork_moe", "olmoe", "qwen2_moe", "qwen3_moe"})
"""Families whose experts transformers 5 stacks."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of our tensors; if it is stacked with others, its expert and rows in the stack."""

    tensor: TensorSlice
    expert: int | None = None
    rows: tuple[int, int] = (0, 0)

    def of(self, whole: Tensor) -> Tensor:
        """Return the view of the part in the parameter."""
        return whole if self.expert is None else whole[self.expert, slice(*self.rows)]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the module; ``parts`` are its tensors."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def stacked(self) -> bool:
        """Whether it holds the experts of a layer."""
        return self.parts[0].expert is not None

    @property
    def trained(self) -> bool:
        """Whether an optimiser has moments for it."""
        return self.parts[0].tensor.role.trained


def parameters(config: ModelConfig, stacked: bool) -> list[Parameter]:
    """Return the parameters of a model whose experts are stacked or separate."""
    names: dict[str, list[TensorSlice]] = {}
    for tensor in tensors(config):
        names.setdefault(_name(config.family, tensor, stacked), []).append(tensor)
    return [_parameter(name, found, config, stacked) for name, found in names.items()]


def _name(family: str, tensor: TensorSlice, stacked: bool) -> str:
    """Return the name of the parameter that holds a tensor: the name in the files, or in memory."""
    role = tensor.role
    if stacked and role.layer is not None:
        if role.part == "router":
            return f"{layer_prefix(role.layer)}mlp.gate.weight"
        if (name := fused_name(role)) is not None:
            return name
    return disk_name(family, tensor.name)


def _parameter(
    name: str, found: list[TensorSlice], config: ModelConfig, stacked: bool
) -> Parameter:
    if not stacked or found[0].role.expert is None:
        (tensor,) = found
        return Parameter(name, tensor.shape, (Part(tensor),))
    rows, columns = found[0].shape
    height = rows if found[0].role.part == "down" else 2 * rows
    parts = tuple(_stacked(tensor, rows) for tensor in found)
    return Parameter(name, (config.experts, height, columns), parts)


def _stacked(tensor: TensorSlice, rows: int) -> Part:
    start = rows if tensor.role.part == "up" else 0
    return Part(tensor, tensor.role.expert, (start, start + rows))
