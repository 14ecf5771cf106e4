"""The weights that an adapter may add to, in the groups that are multiplied as one.

LoRA (Hu et al. 2021, section 4.1) adds the product of two narrow matrices to a weight::

    y = W x + scale * B A x        W [N, K], A [R, K], B [N, R]

Queries, keys and values are one product, and so are gate and up: their A lie above each other, and
their B are blocks of one matrix. Cut as the weight is, B has the rank's rows, or A its columns.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from moe.config.model import ModelConfig
from moe.config.role import ModelPart, Role
from moe.config.share import Share
from moe.config.tensors import TensorSlice, held_by

Group = tuple[TensorSlice, ...]
"""Weights of a share that the same rows are multiplied by, one above the other."""

_TOGETHER: dict[ModelPart, ModelPart] = {
    "query": "query",
    "key": "query",
    "value": "query",
    "output": "output",
    "router": "router",
    "gate": "gate",
    "up": "gate",
    "down": "down",
    "shared_gate": "shared_gate",
}
"""By the part of a weight, the part of the first of its group."""


def groups(config: ModelConfig, share: Share) -> Iterator[Group]:
    """Yield the groups that a share holds, layer after layer.

    Nothing is added to the gates and the experts of a model that merges them.
    """
    held = _weights(held_by(config, share))
    if config.moe is not None and config.moe.merged:
        held = (each for each in held if each.role.expert is None and each.role.part != "router")
    for _, members in groupby(held, lambda tensor: _key(tensor.role)):
        yield tuple(members)


def outputs(group: Group) -> int:
    """Return the number of outputs that the share computes with a group."""
    return sum(tensor.held_shape[0] for tensor in group)


def inputs(group: Group) -> int:
    """Return the number of inputs that the share has for a group."""
    return group[0].held_shape[1]


def factor_bytes(config: ModelConfig, share: Share, rank: Callable[[Group], int], each: int) -> int:
    """Return the bytes of an adapter in a share, of ``each`` a number; ``rank`` 0 is none."""
    held = groups(config, share)
    return each * sum(rank(group) * (outputs(group) + inputs(group)) for group in held)


def _weights(tensors: Iterable[TensorSlice]) -> Iterator[TensorSlice]:
    plain = (each for each in tensors if not each.role.bias and each.role.factor is None)
    return (each for each in plain if each.role.part in _TOGETHER)


def _key(role: Role) -> tuple[object, ...]:
    return role.layer, role.expert, role.shared, _TOGETHER[role.part]
