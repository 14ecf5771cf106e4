"""What of a model a run trains, and what it trains beside it: frozen tensors, low-rank factors.

A frozen tensor never changes: it has no gradient and no moments, and lies in no bucket. With LoRA
(Hu et al. 2021, section 4.1) the whole model is frozen, and beside the chosen weights lie two
narrow matrices, the *factors* of what is added to the weight::

    W + scale * B A        W [N, K], A [R, K], B [N, R]

The gate and the up projection of a routed expert have one pair of factors, with the gate's rows of
B before those of up: that is what transformers' stacked experts and ``peft`` train.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import sqrt
from typing import TYPE_CHECKING, Literal

from moe.config.role import ModelPart, Role

if TYPE_CHECKING:
    from moe.config.tensors import TensorSlice

LoraTarget = Literal[
    "attention",
    "feed_forward",
    "experts",
    "router",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
]
"""Weights that may have factors: the four projections of attention, together or each; the three of
dense feed-forwards and shared experts, likewise; routed experts; routers.
"""

_PARTS: dict[ModelPart, tuple[LoraTarget, LoraTarget]] = {
    "query": ("attention", "q_proj"),
    "key": ("attention", "k_proj"),
    "value": ("attention", "v_proj"),
    "output": ("attention", "o_proj"),
    "router": ("router", "router"),
    "gate": ("feed_forward", "gate_proj"),
    "up": ("feed_forward", "up_proj"),
    "down": ("feed_forward", "down_proj"),
}

PAIR = "adapter"
"""The module that holds a pair of factors, inside the module of the weight."""


@dataclass(frozen=True, slots=True)
class Lora:
    """Sizes of the factors: ``rank`` R, ``alpha``, and the weights that have them.

    ``stabilised`` divides alpha by the root of the rank (Kalajdzievski 2023), not by the rank.
    """

    rank: int
    alpha: float
    targets: tuple[LoraTarget, ...]
    stabilised: bool = False

    @property
    def scale(self) -> float:
        """The number by which what the factors give is multiplied."""
        return self.alpha / (sqrt(self.rank) if self.stabilised else self.rank)

    def has(self, role: Role) -> bool:
        """Return whether a weight has factors, be it together with another."""
        return any(target in self.targets for target in targets_of(role))


@dataclass(frozen=True, slots=True)
class Tuning:
    """Patterns of the names of frozen tensors, or LoRA, which freezes them all."""

    freeze: tuple[str, ...] = ()
    lora: Lora | None = None

    def freezes(self, name: str) -> bool:
        """Return whether a tensor of the model is frozen."""
        return self.lora is not None or any(fnmatchcase(name, each) for each in self.freeze)


def lora_of(tuning: Tuning | None, part: ModelPart, expert: int | None = None) -> Lora | None:
    """Return the factors of the weights of a part, or of that part of experts; None where they
    have none.
    """
    lora = None if tuning is None else tuning.lora
    return lora if lora is not None and lora.has(Role(part, expert=expert)) else None


def targets_of(role: Role) -> tuple[LoraTarget, ...]:
    """Return the words by which a weight is asked for; none for what never has factors."""
    if role.bias or role.factor is not None or role.part not in _PARTS:
        return ()
    group, own = _PARTS[role.part]
    if role.expert is not None:
        return ("experts",)
    return (group, own) if own != group else (group,)


def tuned(tuning: Tuning | None, tensors: Iterable["TensorSlice"]) -> Iterator["TensorSlice"]:
    """Yield the tensors of a model as a run has them: some frozen, factors behind their weights."""
    for tensor in tensors:
        if tuning is None:
            yield tensor
            continue
        if tuning.freezes(tensor.name):
            role = replace(tensor.role, trained=False, frozen=True)
            yield replace(tensor, role=role)
        else:
            yield tensor
        if tuning.lora is not None and tuning.lora.has(tensor.role):
            yield from _factors(tuning.lora, tensor)


def _factors(lora: Lora, weight: "TensorSlice") -> Iterator["TensorSlice"]:
    """Yield A and B of a weight. Where its outputs are cut, B is; where its inputs are, A is."""
    role, (rows, columns) = weight.role, weight.shape
    module = weight.name.removesuffix(".weight")
    if role.expert is not None and role.part == "gate":
        return
    if role.expert is not None and role.part == "up":
        role, rows = replace(role, part="gate"), 2 * rows
        module = module.rpartition(".")[0]
    cut = None if role.expert is not None else role.cut
    down = replace(role, factor="A", cut=1 if cut == 1 else None)
    up = replace(role, factor="B", cut=0 if cut == 0 else None)
    yield replace(weight, name=f"{module}.{PAIR}.lora_A", shape=(lora.rank, columns), role=down)
    yield replace(weight, name=f"{module}.{PAIR}.lora_B", shape=(rows, lora.rank), role=up)
