"""Memory that snapshots of tensors are copied into, kept from one save to the next."""

import threading
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_ALIGNED = 64
_TOUCHED = 2**26
"""Bytes that are touched at once; in between other threads of Python get their turn."""


class Buffers:
    """One block of CPU memory; as long as the tensors stay alike no save allocates any.

    Fresh memory costs several times its copy, page by page, so a block is made ready in a thread
    beforehand where somebody asks for it. ``pinned`` memory is what a GPU copies to fastest; only a
    machine with a GPU has any.
    """

    def __init__(self, pinned: bool) -> None:
        self.pinned = pinned
        self._block = torch.empty(0, dtype=torch.uint8)
        self._making: threading.Thread | None = None

    @property
    def bytes(self) -> int:
        """Size of the block."""
        return self._block.nbytes

    def replaced(self) -> "Buffers":
        """Return others of the same kind, for when somebody still uses the memory of these."""
        return Buffers(self.pinned)

    def prepare(self, tensors: Iterable[Tensor]) -> None:
        """Begin to make memory ready for copies of tensors like these; return at once."""
        size = sum(map(_room, tensors))
        if self._making is None and size > self.bytes:
            self._making = threading.Thread(target=self._make, args=(size,), daemon=True)
            self._making.start()

    def copied(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return copies of tensors; they stay until the next call."""
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
