"""The experts of a layer that a rank holds, and which bank computes them.

Two banks compute the same function (``loop``, ``grouped``) behind one signature. The grouped bank
is taken where torch has grouped products: bfloat16 on CUDA, sizes of 16 bytes, and experts that lie
in one stack. The choice depends on devices, types and sizes alone, never on a measurement, so that
a resumed run computes the same bits.

Shapes: T tokens, K experts per token, N experts, R rows (held experts), D hidden, F expert columns.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Literal, Self

import torch
from torch import Tensor, nn

from moe.config.tuning import Lora
from moe.nn import dispatch
from moe.nn.experts import grouped, loop
from moe.nn.experts.stack import Stack, gathered
from moe.nn.feed_forward import Expert, FeedForward
from moe.nn.later import Later
from moe.nn.weights.dense import Dense
from moe.nn.weights.weight import Weight

BankName = Literal["loop", "grouped"]


class Experts(nn.ModuleDict):
    """Complete experts, keyed by their number in the layer.

    ``bank`` holds one bank fast, for comparing the two; None takes what suits the device.
    """

    row_of_N: Tensor
    bank: BankName | None = None

    def __init__(
        self, hidden_size: int, size: int, numbers: Sequence[int], lora: Lora | None = None
    ) -> None:
        super().__init__({str(number): Expert(hidden_size, size, lora) for number in numbers})
        self.numbers = tuple(numbers)
        self.register_buffer("row_of_N", _row_of(self.numbers), persistent=False)
        self._stacks: tuple[Stack, Stack] | None = None

    def forward(
        self,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        kept_TK: Tensor,
        later: Later | None = None,
        room: int | None = None,
    ) -> Tensor:
        """Return the weighted sum of the held experts, [T, D], over the kept pairs.

        A token without an expert on this rank gets zero. If ``later`` is given, it collects the
        gradients of the experts' weights. ``room`` is the most kept pairs of an expert, if that is
        known; less memory is then needed.
        """
        rows = len(self.numbers)
        order = dispatch.order(experts_TK, kept_TK, self.row_of_N, rows, room)
        stacks = self._for_grouped(x_TD)
        if stacks is not None:
            return grouped.apply(x_TD, weights_TK, order, *stacks, later)
        weights = cache(lambda row: self.weights(self.numbers[row]))
        gate_up, down = (lambda row: weights(row)[:2]), (lambda row: weights(row)[2])
        return loop.apply(x_TD, weights_TK, order, gate_up, down, later)

    def weights(self, number: int) -> tuple[Weight, Weight, Weight]:
        """Return the weights of gate, up and down of one expert."""
        expert = self[str(number)]
        assert isinstance(expert, FeedForward)
        return expert.weights

    def exchange(self, leaving: Collection[int], coming: Mapping[int, FeedForward]) -> None:
        """Hold other experts, between two passes."""
        for number in leaving:
            del self[str(number)]
        self.update({str(number): expert for number, expert in coming.items()})
        self.numbers = tuple(sorted({*self.numbers} - {*leaving} | {*coming}))
        self.row_of_N = _row_of(self.numbers).to(self.row_of_N.device)
        self._stacks = None

    def gather(self) -> None:
        """Move the weights of all experts into one piece of memory, unless they are two stacks, or
        can be none.
        """
        weights = [weight for number in self.numbers for weight in self.weights(number)]
        plain = [weight.value for weight in weights if isinstance(weight, Dense)]
        if len(plain) == len(weights) and self.stacks() is None:
            gathered(plain)

    def stacks(self) -> tuple[Stack, Stack] | None:
        """Return gates above ups, [R, 2F, D], and downs, [R, D, F], over the parameters' memory.

        None if weights are of another kind, if only some are trained, or if they lie elsewhere than
        one behind the other.
        """
        if self._stacks is None or not all(stack.holds for stack in self._stacks):
            self._stacks = self._found_stacks()
        return self._stacks

    def _found_stacks(self) -> tuple[Stack, Stack] | None:
        gate_up, down = [], []
        for number in self.numbers:
            weights = self.weights(number)
            values = [weight.value for weight in weights if isinstance(weight, Dense)]
            if len(values) < len(weights):
                return None
            gate_up.append(values[:2])
            down.append(values[2:])
        found = Stack.of(gate_up), Stack.of(down)
        return None if found[0] is None or found[1] is None else (found[0], found[1])

    def _for_grouped(self, x_TD: Tensor) -> tuple[Stack, Stack] | None:
        """Return what the grouped bank multiplies; None where the loop computes."""
        held_fast = self.bank == "grouped"
        if not self.numbers or self.bank == "loop" or not (held_fast or grouped.suits(x_TD)):
            return None
        stacks = self.stacks()
        if held_fast and stacks is None:
            raise RuntimeError(
                "these experts are held to the grouped bank but are not two stacks; call gather()"
            )
        if stacks is None or not (held_fast or all(map(grouped.aligned, stacks))):
            return None
        trained = {stack.value.requires_grad for stack in stacks}
        return stacks if len(trained) == 1 else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the module (torch's name). Tables are made anew: ``to_empty`` leaves them bare."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._stacks = None
        if not self.row_of_N.is_meta:
            self.row_of_N.copy_(_row_of(self.numbers))
        if self.row_of_N.is_cuda:
            self.gather()
        return self


def _row_of(numbers: Sequence[int]) -> Tensor:
    """Return the row of each expert by its number; the last entry is for those not held."""
    with torch.device("cpu"):
        row_of_N = torch.full((max(numbers, default=-1) + 2,), len(numbers))
        row_of_N[list(numbers)] = torch.arange(len(numbers))
    return row_of_N
