"""Memory that snapshots of tensors are copied into, kept from one save to the next."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNED = 64


class Buffers:
    """One block of CPU memory; as long as the tensors stay alike no save allocates any.

    The block comes from numpy, which asks the kernel for large pages: the first copy into it costs
    little more than later ones.
    """

    def __init__(self) -> None:
        self._block: NDArray[np.uint8] = np.empty(0, np.uint8)

    @property
    def bytes(self) -> int:
        """Size of the block."""
        return self._block.nbytes

    def copied(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return copies of tensors; they stay until the next call."""
        begins, end = [], 0
        for tensor in tensors:
            begins.append(end)
            end += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        if end > self.bytes:
            self._block = np.empty(0, np.uint8)
            self._block = np.empty(end, np.uint8)
        views = []
        for tensor, begin in zip(tensors, begins, strict=True):
            own = self._block[begin : begin + tensor.nbytes]
            view = torch.from_numpy(own).view(tensor.dtype).view(tensor.shape)
            view.copy_(tensor.detach())
            views.append(view)
        return views
