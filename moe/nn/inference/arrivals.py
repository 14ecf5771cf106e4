"""Experts that come to a share which answers: made beside those in use, then taken all at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moe.config.answering import WeightKind
from moe.config.model import ModelConfig
from moe.config.role import ModelPart, Role
from moe.config.share import Share
from moe.config.tensors import TensorSlice, held_by
from moe.nn.build import ReadTensor, bare
from moe.nn.feed_forward import Expert, FeedForward
from moe.nn.inference.experts import SwiGlu
from moe.nn.linear import Linear

_NAMES: Mapping[ModelPart, str] = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


class Arrival(NamedTuple):
    """One expert: the module with its parameters, and its weights as products take them."""

    module: FeedForward
    packed: SwiGlu


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The experts that a share lacks of another one, by layer and number."""

    share: Share
    experts: Mapping[int, Mapping[int, Arrival]]

    def of(self, role: Role) -> Arrival | None:
        """Return the expert that a weight belongs to, if it is among them."""
        if role.layer is None or role.expert is None:
            return None
        return self.experts.get(role.layer, {}).get(role.expert)


@dataclass(frozen=True, slots=True)
class Making:
    """How experts are made: their numbers are of ``dtype`` on a device, and packed as ``kind``."""

    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    kind: WeightKind


def arrivals(how: Making, before: Share, share: Share, read: ReadTensor) -> Arrivals:
    """Read what a share lacks of another one with the same layers and slices."""
    found: dict[int, dict[int, Arrival]] = {}
    for role, tensors in _lacking(how.config, before, share):
        assert role.layer is not None
        assert role.expert is not None
        module = _module(how, tensors, read)
        packed = SwiGlu.of(module, how.kind, own=True)
        if how.kind != "fp32":
            empty(module)
        found.setdefault(role.layer, {})[role.expert] = Arrival(module, packed)
    return Arrivals(share, found)


def empty(module: nn.Module) -> None:
    """Give back the memory of the matrices of a module that are packed now."""
    for each in module.modules():
        if isinstance(each, Linear):
            each.weight.data = each.weight.data.new_empty(0)


def _lacking(
    config: ModelConfig, before: Share, share: Share
) -> Iterator[tuple[Role, list[TensorSlice]]]:
    """Yield the tensors of each expert that is in one share and was not in the other."""
    experts = (each for each in held_by(config, share) if each.role.expert is not None)
    for (layer, expert), tensors in groupby(experts, lambda each: _place(each.role)):
        if expert not in before.experts_of(layer):
            own = list(tensors)
            yield own[0].role, own


def _place(role: Role) -> tuple[int, int]:
    assert role.layer is not None
    assert role.expert is not None
    return role.layer, role.expert


def _module(how: Making, tensors: list[TensorSlice], read: ReadTensor) -> FeedForward:
    assert how.config.moe is not None
    with bare():
        module = Expert(how.config.hidden_size, how.config.moe.expert_size)
    for tensor in tensors:
        value: Tensor = read(tensor).to(how.device, how.dtype, copy=True)
        layer = module.get_submodule(_NAMES[tensor.role.part])
        assert isinstance(layer, Linear)
        layer.weight = nn.Parameter(value)
    return module
