"""Matrices of all experts of a layer as one tensor, over the memory of the parameters.

The parameters stay what they are: one for each matrix, with its name, its gradient and its place in
a bucket. Where they lie at even distances in one storage, the same memory is one strided tensor,
which grouped products take as it is. Nothing is copied.

    memory of a layer    gate 0 | up 0 | down 0 | gate 1 | up 1 | down 1 | ...
    gates above ups      [ row 0      ]         [ row 1       ]           ...
    downs                               [row 0 ]                 [row 1 ] ...

Shapes: R rows (experts), N outputs of all matrices of a row, K inputs.
"""

from collections.abc import Sequence
from operator import is_not
from typing import Self

import torch
from torch import Tensor


class Stack:
    """One or several matrices of each expert, one above the other: ``value`` is [R, N, K].

    ``value`` takes part in autograd as an input whose gradient is not autograd's affair: the rows
    of ``grad`` are the gradients of the parameters, and ``moe.nn.later`` adds to them.
    """

    def __init__(self, rows: Sequence[Sequence[Tensor]], value: Tensor) -> None:
        self.value = value
        self._rows = rows
        self._grads: list[Tensor | None] = []
        self._grad: Tensor | None = None

    @classmethod
    def of(cls, rows: Sequence[Sequence[Tensor]]) -> Self | None:
        """Return the stack of the matrices of each expert; None if they do not lie as one."""
        trained = {matrix.requires_grad for row in rows for matrix in row}
        value = None if len(trained) != 1 else joined(rows)
        return None if value is None else cls(rows, value.requires_grad_(trained.pop()))

    @property
    def holds(self) -> bool:
        """Whether the parameters still lie where the value is; whoever moves one moves all."""
        first, last = self._rows[0][0], self._rows[-1][0]
        return (
            first.dtype == self.value.dtype
            and first.requires_grad == self.value.requires_grad
            and first.data_ptr() == self.value[0].data_ptr()
            and last.data_ptr() == self.value[-1].data_ptr()
        )

    @property
    def grad(self) -> Tensor:
        """The gradients of the parameters, [R, N, K]; a parameter without one gets zeros."""
        found = self._gradients()
        if self._grad is None or any(map(is_not, found, self._grads)):
            self._grad = self._linked(found)
            self._grads = self._gradients()
        return self._grad

    def accumulate(self, gradient: Tensor) -> None:
        """Add to the gradients of the parameters."""
        self.grad.add_(gradient)

    def _gradients(self) -> list[Tensor | None]:
        return [matrix.grad for row in self._rows for matrix in row]

    def _linked(self, found: Sequence[Tensor | None]) -> Tensor:
        """Return the stack of the gradients that are there; else a new one whose rows they are."""
        per_row = len(self._rows[0])
        there = [each for each in found if each is not None]
        if len(there) == len(found):
            rows = [there[start : start + per_row] for start in range(0, len(there), per_row)]
            together = joined(rows)
            if together is not None:
                return together
        dtype = self._rows[0][0].grad_dtype
        whole = torch.zeros(self.value.shape, dtype=dtype, device=self.value.device)
        for row, part in zip(self._rows, whole, strict=True):
            for matrix, own in zip(row, part.split([len(each) for each in row]), strict=True):
                if matrix.grad is not None:
                    own.copy_(matrix.grad)
                matrix.grad = own
        return whole


@torch.no_grad()
def gathered(parameters: Sequence[Tensor]) -> None:
    """Move parameters into one piece of memory, one behind the other."""
    if not parameters:
        return
    sizes = [each.numel() for each in parameters]
    memory = parameters[0].new_empty(sum(sizes))
    for each, own in zip(parameters, torch.split(memory, sizes), strict=True):
        each.data = own.view(each.shape).copy_(each)


def joined(rows: Sequence[Sequence[Tensor]]) -> Tensor | None:
    """Return the tensor whose rows these matrices are, in their memory; None if there is none."""
    first = rows[0][0]
    storage, start = first.untyped_storage().data_ptr(), first.storage_offset()
    height = sum(len(matrix) for matrix in rows[0])
    step = rows[1][0].storage_offset() - start if len(rows) > 1 else height * first.shape[1]
    for number, row in enumerate(rows):
        place = start + number * step
        for matrix in row:
            if (
                matrix.untyped_storage().data_ptr() != storage
                or matrix.storage_offset() != place
                or not matrix.is_contiguous()
                or matrix.dtype != first.dtype
            ):
                return None
            place += matrix.numel()
    if step < height * first.shape[1]:
        return None
    shape = (len(rows), height, first.shape[1])
    return first.detach().as_strided(shape, (step, first.shape[1], 1), start)
