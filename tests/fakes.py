"""Stand-ins written by hand for what unit tests cannot have: a gang without processes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
SECONDS = 60.0


class ThreadGang:
    """Ranks as threads of one process; every rank must make the same exchanges in the same order.

    On CPU the backward pass runs in the thread that called it, so a barrier is enough.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=SECONDS)
        self._parts: list[Tensor | None] = [None] * size

    def run(self, work: Callable[[int, "ThreadExchange"], Result]) -> list[Result]:
        """Call ``work(rank, exchange)`` in a thread for each rank; return the results by rank."""

        def member(rank: int) -> Result:
            try:
                return work(rank, ThreadExchange(self, rank))
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(member, range(self.size)))

    def sum(self, rank: int, part: Tensor) -> Tensor:
        """Return the sum of every rank's part, added in the order of the ranks."""
        return self.gather(rank, part).sum(0)

    def gather(self, rank: int, part: Tensor) -> Tensor:
        """Return every rank's part, stacked in the order of the ranks."""
        self._parts[rank] = part.detach()
        self._barrier.wait()
        stack = torch.stack([part for part in self._parts if part is not None])
        self._barrier.wait()
        return stack


class ThreadExchange:
    """One member's ``moe.nn.exchange.Exchange``."""

    def __init__(self, gang: ThreadGang, rank: int) -> None:
        self._gang = gang
        self._rank = rank

    def enter(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        entered: tuple[Tensor, ...] = _Enter.apply(self._gang, self._rank, *tensors)
        return entered

    def leave(self, x: Tensor) -> Tensor:
        left: Tensor = _Leave.apply(self._gang, self._rank, x)
        return left

    def gather(self, x: Tensor) -> Tensor:
        return self._gang.gather(self._rank, x)

    def agree(self, x: Tensor) -> Tensor:
        return self._gang.gather(self._rank, x)[0]


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gang: ThreadGang, rank: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.gang, ctx.rank = gang, rank
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(ctx.gang.sum(ctx.rank, gradient) for gradient in gradients))


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gang: ThreadGang, rank: int, x: Tensor) -> Tensor:
        return gang.sum(rank, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *gradients)
