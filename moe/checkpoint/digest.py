"""The stored bytes of a tensor, and the hashes of tensors, of small files and of a model."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from moe.checkpoint.weight_files import weight_files
from moe.storage import Location, local

_ENDS = 2**20
"""Bytes at either end of a file that are read of a model."""


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


def model_sha256(directory: Path) -> str:
    """Return a hash by which two models differ, soon: of the names and sizes of the files with
    weights, and of the first and the last of their bytes. The rest of them is not read.
    """
    found = hashlib.sha256()
    for path in sorted(set(weight_files(directory).values()), key=str):
        size = local(path).stat().st_size
        found.update(f"{path.name} {size}".encode())
        with local(path).open("rb") as file:
            found.update(file.read(_ENDS))
            file.seek(max(size - _ENDS, 0))
            found.update(file.read(_ENDS))
    return found.hexdigest()
