"""The OpenBLAS that numpy brings, as a library of torch's products, without a copy.

numpy multiplies; the library itself is asked only for its kernels and told its threads, which numpy
has no function for. It must be the build of numpy's own wheels, whose name and symbols are known:
another build, or numpy over another library, is not used.

Shapes: M rows, N columns, K summed over.
"""

import ctypes
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moe.environment import calm

_WIDE = frozenset({"SkylakeX", "Cooperlake", "SapphireRapids"})
_KERNELS = {"avx512": _WIDE, "avx2": _WIDE | {"Haswell", "Zen"}}
"""OpenBLAS's names of the kernels that use all of a processor."""


def fits(processor: str) -> bool:
    """Tell whether OpenBLAS is there with the kernels of a kind of processor, and does not disturb
    torch's threads.
    """
    return _kernels() in _KERNELS.get(processor, ()) and calm(os.environ)


def multiply(x_MK: Tensor, y_KN: Tensor) -> Tensor:
    """Return ``x @ y`` of float32 matrices on CPUs, by as many threads as torch has."""
    _use_threads(torch.get_num_threads())
    out_MN = torch.empty(x_MK.shape[0], y_KN.shape[1])
    np.matmul(_array(x_MK), _array(y_KN), out=out_MN.numpy())
    return out_MN


def _array(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the memory of a matrix; what numpy would not hand to OpenBLAS is copied."""
    if 1 not in x.stride():
        x = x.contiguous()
    return x.detach().numpy()


class _Threads:
    """How many threads the library was last told to use."""

    told = 0


def _use_threads(threads: int) -> None:
    if _Threads.told == threads:
        return
    library = _library()
    assert library is not None
    library.scipy_openblas_set_num_threads64_(ctypes.c_int(threads))
    _Threads.told = threads


@cache
def _library() -> ctypes.CDLL | None:
    """Return the library that numpy has loaded, or None where it is not numpy's own."""
    beside = Path(np.__file__).parent.parent / "numpy.libs"
    for path in sorted(beside.glob("libscipy_openblas64_*")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "scipy_openblas_set_num_threads64_"):
            return library
    return None


@cache
def _kernels() -> str | None:
    library = _library()
    if library is None:
        return None
    named = library.scipy_openblas_get_corename64_
    named.restype = ctypes.c_char_p
    return str(named().decode())
