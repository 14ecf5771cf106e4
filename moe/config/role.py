"""The role of a tensor in its model, set where ``moe.config.tensors`` lists the tensors.

All other code reads the role: the layer, the expert, the dimension that tensor parallelism cuts,
whether the optimiser trains it. No other file parses tensor names.

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
"""Parts that are scales: vectors whose initial value is one."""

_GATES = frozenset({"router", "shared_gate"})
_OF_EXPERTS_ALONE = _GATES | {"balance_bias"}


@dataclass(frozen=True, slots=True)
class Role:
    """The role of one tensor. No two tensors of a model have equal roles.

    ``layer`` is None for embedding, final norm and head. ``expert`` is the number of a routed
    expert; ``shared`` marks the shared expert. ``bias`` marks a vector that is added. ``cut`` is
    the dimension of attention heads, feed-forward columns or vocabulary rows, along which a tensor
    can be split; None if there is none (norms, routers, biases of outputs). A gang splits dense and
    shared tensors along ``cut`` and distributes complete routed experts. ``decays`` is True if
    weight decay applies: for matrices. ``trained`` is False for a balance bias, which follows the
    load of the experts and has no gradient, and for what is ``frozen``, which never changes.
    ``factor`` marks the narrow matrices that LoRA trains beside a weight (``moe.config.tuning``).
    """

    part: ModelPart
    layer: int | None = None
    expert: int | None = None
    shared: bool = False
    bias: bool = False
    cut: int | None = None
    decays: bool = True
    trained: bool = True
    frozen: bool = False
    factor: Literal["A", "B"] | None = None

    @property
    def exact(self) -> bool:
        """Whether the tensor stays float32 in a bf16 run: norms, biases, the gates of experts and
        factors, which are few numbers on which much depends.
        """
        return not self.decays or self.part in _GATES or self.factor is not None

    @property
    def dense(self) -> "Role | None":
        """The role of the same tensor in a dense layer; None if a dense layer has no such
        tensor.
        """
        if self.part in _OF_EXPERTS_ALONE:
            return None
        return replace(self, expert=None, shared=False)
