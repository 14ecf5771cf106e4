"""The parameters that transformers holds in memory, and our tensors as parts of them.

Most are tensors of ours under the names of the files. transformers 5 stacks the experts of a layer
in two parameters for the families below, whatever lies on disk: ``experts.gate_up_proj`` [N, 2F, D]
with the rows of the gate before those of the up projection, and ``experts.down_proj`` [N, D, F];
before version 5 and in code that travels with a checkpoint experts are apart.
"""

import re
from dataclasses import dataclass

from torch import Tensor

from moe.checkpoint.names import disk_name
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, is_trained, tensors

STACKING = frozenset({"mixtral", "skywork_moe", "olmoe", "qwen2_moe", "qwen3_moe"})
"""Families whose experts transformers 5 stacks."""

_EXPERT = re.compile(r"(?P<head>.*\.mlp\.experts)\.(?P<number>\d+)\.(?P<kind>gate|up|down)_proj\.")


@dataclass(frozen=True, slots=True)
class Part:
    """One of our tensors; where it is stacked with others, its expert and rows there."""

    tensor: TensorSlice
    expert: int | None = None
    rows: tuple[int, int] = (0, 0)

    def of(self, whole: Tensor) -> Tensor:
        """Return the view of the part in the parameter."""
        return whole if self.expert is None else whole[self.expert, slice(*self.rows)]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the module; ``parts`` are all that it consists of."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def trained(self) -> bool:
        """Whether an optimiser has moments for it."""
        return is_trained(self.parts[0].tensor.name)


def parameters(config: ModelConfig, stacked: bool) -> list[Parameter]:
    """Return the parameters of a model whose experts are stacked, or apart."""
    names: dict[str, list[TensorSlice]] = {}
    for tensor in tensors(config):
        names.setdefault(_name(config.family, tensor.name, stacked), []).append(tensor)
    return [_parameter(name, found, config) for name, found in names.items()]


def _name(family: str, name: str, stacked: bool) -> str:
    expert = _EXPERT.match(name) if stacked else None
    if expert is not None:
        kind = "down_proj" if expert["kind"] == "down" else "gate_up_proj"
        return f"{expert['head']}.{kind}"
    if stacked and ".mlp.router." in name:
        return name.replace(".mlp.router.", ".mlp.gate.")
    return disk_name(family, name)


def _parameter(name: str, found: list[TensorSlice], config: ModelConfig) -> Parameter:
    if not name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
        (tensor,) = found
        return Parameter(name, tensor.shape, (Part(tensor),))
    rows = found[0].shape[0]
    height = 2 * rows if name.endswith(".gate_up_proj") else rows
    parts = tuple(_stacked(tensor, rows) for tensor in found)
    return Parameter(name, (config.experts, height, found[0].shape[1]), parts)


def _stacked(tensor: TensorSlice, rows: int) -> Part:
    expert = _EXPERT.match(tensor.name)
    assert expert is not None
    start = rows if expert["kind"] == "up" else 0
    return Part(tensor, int(expert["number"]), (start, start + rows))
