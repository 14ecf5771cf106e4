"""Buffers for snapshots of tensors, kept from one save to the next."""

import threading
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_ALIGNED = 64
_TOUCHED = 2**26
"""Number of bytes to touch at a time; other Python threads can run in between."""


class Buffers:
    """One block of CPU memory; while shapes and dtypes stay equal, no save allocates memory.

    The first touch of new memory takes several times as long as the copy, so ``prepare`` touches
    the block in a thread beforehand. A GPU copies fastest to ``pinned`` memory, which exists only
    on a machine with a GPU.
    """

    def __init__(self, pinned: bool) -> None:
        self.pinned = pinned
        self._block = torch.empty(0, dtype=torch.uint8)
        self._making: threading.Thread | None = None

    @property
    def bytes(self) -> int:
        """Size of the block in bytes."""
        return self._block.nbytes

    def replaced(self) -> "Buffers":
        """Return new buffers of the same kind, for use while the memory of these is still in
        use.
        """
        return Buffers(self.pinned)

    def prepare(self, tensors: Iterable[Tensor]) -> None:
        """Start to prepare memory for copies of tensors of these shapes; return at once."""
        size = sum(map(_room, tensors))
        if self._making is None and size > self.bytes:
            self._making = threading.Thread(target=self._make, args=(size,), daemon=True)
            self._making.start()

    def copied(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return copies of tensors, valid until the next call."""
        if self._making is not None:
            self._making.join()
            self._making = None
        size = sum(map(_room, tensors))
        if size > self.bytes:
            self._make(size)
        views, begin = [], 0
        for tensor in tensors:
            own = self._block[begin : begin + tensor.nbytes]
            view = own.view(tensor.dtype).view(tensor.shape)
            view.copy_(tensor.detach())
            views.append(view)
            begin += _room(tensor)
        return views

    def _make(self, size: int) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)
        block = torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned)
        pages = block.numpy()
        for begin in range(0, size, _TOUCHED):
            pages[begin : begin + _TOUCHED].fill(0)
        self._block = block


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNED) * _ALIGNED
