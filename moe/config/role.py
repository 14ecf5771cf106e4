"""What a tensor is in its model. Said once, where ``moe.config.tensors`` lists the tensors.

Everybody else asks the role: which layer, which expert, which dimension tensor parallelism cuts,
whether the optimiser trains it. No other file takes the name of a tensor apart.

    down_proj of expert 5 in layer 3      Role("down", layer=3, expert=5, cut=1)
"""

from dataclasses import dataclass, replace
from typing import Literal

ModelPart = Literal[
    "embedding",
    "attention_norm",
    "query",
    "key",
    "value",
    "query_norm",
    "key_norm",
    "output",
    "feed_forward_norm",
    "router",
    "balance_bias",
    "gate",
    "up",
    "down",
    "shared_gate",
    "final_norm",
    "head",
]
"""The parts of a decoder, in the order of the tensor table.

``gate``, ``up`` and ``down`` are the matrices of a feed-forward: of a dense layer, of an expert, or
of the shared expert. ``shared_gate`` weighs the output of the shared expert.
"""

NORMS = frozenset({"attention_norm", "query_norm", "key_norm", "feed_forward_norm", "final_norm"})
"""Parts that scale: vectors that begin at one."""

_OF_EXPERTS_ALONE = frozenset({"router", "balance_bias", "shared_gate"})


@dataclass(frozen=True, slots=True)
class Role:
    """What one tensor is. No two tensors of a model have equal roles.

    ``layer`` is None for embedding, final norm and head. ``expert`` is the number of a routed
    expert; ``shared`` marks the shared expert. ``bias`` marks a vector that is added. ``cut`` is
    the dimension that holds attention heads, feed-forward columns or vocabulary rows, along which a
    tensor can be split; None where there is none (norms, routers, biases of outputs). A gang splits
    dense and shared tensors so, and gives out routed experts whole. ``decays`` says that weight
    decay applies: to matrices. ``trained`` is False for a balance bias, which the load of the
    experts moves and no gradient.
    """

    part: ModelPart
    layer: int | None = None
    expert: int | None = None
    shared: bool = False
    bias: bool = False
    cut: int | None = None
    decays: bool = True
    trained: bool = True

    @property
    def dense(self) -> "Role | None":
        """The role of the same tensor in a dense layer; None where a dense layer has none."""
        if self.part in _OF_EXPERTS_ALONE:
            return None
        return replace(self, expert=None, shared=False)
