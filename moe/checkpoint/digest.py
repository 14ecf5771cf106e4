"""The bytes of a tensor as they are stored, and their hash."""

import hashlib

import torch
from torch import Tensor


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor in row-major order; a view where it lies so in memory."""
    flat = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
    return flat.numpy().data


def sha256(tensor: Tensor) -> str:
    """Return the hash of the bytes of a tensor."""
    return hashlib.sha256(raw_bytes(tensor)).hexdigest()
