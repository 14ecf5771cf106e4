"""Memory of the host for what is large and stays: zero, and not touched before it is used.

A rank that is made new has gigabytes to fill before it can take part. The first touch of a page
takes the system longer than the copy to it, and with large pages it is a fifth of that; so the
memory asks for those, where the system has them, and nothing is written to it but what is wanted.
"""

import mmap
from contextlib import suppress

import torch
from torch import Tensor


def zeros(elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a flat tensor of zeros; on a CPU its pages come as they are first used."""
    if device.type != "cpu":
        return torch.zeros(elements, dtype=dtype, device=device)
    return host_memory(elements * dtype.itemsize).view(dtype)


def host_memory(size: int) -> Tensor:
    """Return so many bytes, zero and untouched, that begin with a page; freed with the tensor."""
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"can't allocate memory: {size} bytes: {error.strerror}") from error
    with suppress(OSError, AttributeError):  # not every system has large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
