"""A backend of torch.distributed whose work can be given up under it, as that of NCCL.

The other ranks of a group add nothing. When ``Play.happening`` says so, the groups are aborted
while a result is waited for; who waits for it is let go and reads whatever lies in memory. A group
that was given up refuses all later work.
"""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor

BACKEND = "abortable"

Happening = Callable[["AbortableGroup", str, Tensor], None]
"""Called with a group, the kind of work and its result while the work is under way."""


def nothing(group: "AbortableGroup", kind: str, result: Tensor) -> None:
    """Let all work end well."""


class Play:
    """What happens to work under way."""

    happening: Happening = staticmethod(nothing)


class AbortableGroup(dist.ProcessGroup):
    """This process's end of a group whose other ends are not there."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def allreduce(self, tensors: list[Tensor], options: Any = None) -> dist.Work:
        kind = "norm" if tensors[0].dim() == 0 else "number" if len(tensors[0]) == 1 else "account"
        return self._done(kind, tensors[0])

    def reduce_scatter_single(self, output: Tensor, source: Tensor, options: Any) -> dist.Work:
        output.copy_(source.view(self.size(), -1)[self.rank()])
        return self._done("gradients", output)

    def all_gather_single(self, output: Tensor, source: Tensor, options: Any) -> dist.Work:
        output.view(self.size(), -1)[self.rank()].copy_(source)
        return self._done("weights", output)

    def _done(self, kind: str, result: Tensor) -> dist.Work:
        if self.aborted:
            raise RuntimeError("the communicator was aborted")
        Play.happening(self, kind, result)
        return _Work()


class _Work(dist.Work):
    def wait(self, timeout: Any = None) -> bool:
        return True


dist.Backend.register_backend(BACKEND, AbortableGroup, devices=["cpu"])
