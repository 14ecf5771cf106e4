"""The stored bytes of a tensor, and the hashes of tensors and of small files."""

import hashlib

import torch
from torch import Tensor

from moe.storage import Location


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor in row-major order; a view if the tensor is contiguous."""
    flat = tensor.detach().to("cpu").contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data


def sha256(tensor: Tensor) -> str:
    """Return the hash of the bytes of a tensor."""
    return hashlib.sha256(raw_bytes(tensor)).hexdigest()


def file_sha256(path: Location) -> str:
    """Return the hash of a file that fits in memory."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
