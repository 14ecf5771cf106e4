"""What the matrices of experts are given, summed over the tokens of a step.

A ``Later`` collects gradients in the backward pass; an ``InputSums`` collects inputs in the forward
pass. A layer that runs again for its backward pass adds all of its tokens twice, which changes no
mean.

Shapes: T tokens, K experts per token, R rows of one expert, D hidden, F expert columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moe.nn.experts.experts import Experts
from moe.nn.feed_forward import FeedForward


@dataclass(slots=True)
class InputSum:
    """Tokens of one expert; sums in float64 of what gate and up [D] and down [F] are given."""

    tokens: int
    hidden: Tensor
    inner: Tensor


class InputSums:
    """The sums of each expert, by layer and number; an expert without tokens is left out."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], InputSum] = {}

    @torch.no_grad()
    def add(
        self, layer: int, experts: Experts, x_TD: Tensor, experts_TK: Tensor, kept_TK: Tensor
    ) -> None:
        """Add the tokens that come to the held experts of a layer."""
        for number in experts.numbers:
            rows = ((experts_TK == number) & kept_TK).any(dim=1)
            x_RD = x_TD[rows]
            if not len(x_RD):
                continue
            expert = experts[str(number)]
            assert isinstance(expert, FeedForward)
            own = InputSum(len(x_RD), _sum(x_RD), _sum(expert.activate(x_RD)))
            before = self.found.get((layer, number))
            if before is not None:
                own.tokens += before.tokens
                own.hidden += before.hidden
                own.inner += before.inner
            self.found[layer, number] = own


def _sum(x: Tensor) -> Tensor:
    return x.sum(dim=0, dtype=torch.float64)
