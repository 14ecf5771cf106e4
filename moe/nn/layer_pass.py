"""The inputs of a layer besides the hidden states, and its output.

Shapes: B batch, S sequence, D hidden.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from moe.nn.attention import LayerCache
from moe.nn.balance import NO_LOSS, Balance
from moe.nn.dispatch import DROPLESS, Capacity
from moe.nn.documents import Documents
from moe.nn.inputs import InputSums
from moe.nn.later import Later
from moe.nn.statistics import RoutingStatistics


@dataclass(frozen=True, slots=True)
class LayerPass:
    """The inputs of a layer besides the hidden states: ``moe.nn.decoder.Pass`` for one layer."""

    capacity: Capacity = DROPLESS
    balance: Balance = NO_LOSS
    cache: LayerCache | None = None
    valid: Tensor | None = None
    tokens: Tensor | None = None
    measured: bool = True
    later: Later | None = None
    inputs: InputSums | None = None
    documents: Documents | None = None


class BlockOutput(NamedTuple):
    """Hidden states [B, S, D], and the statistics of a mixture of experts; None if not measured."""

    hidden: Tensor
    statistics: RoutingStatistics | None
