"""numpy's OpenBLAS as a library of products: its kernels, its threads."""

import ctypes

import pytest
import torch

from moe.nn import openblas
from moe.nn.processor import processor


def test_a_kind_of_processor_without_known_kernels_does_not_use_it() -> None:
    assert not openblas.fits("sve256")


@pytest.mark.skipif(not openblas.fits(processor()), reason="numpy has another library")
@pytest.mark.parametrize("threads", [2, 1])
def test_it_has_as_many_threads_as_torch(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        openblas.multiply(torch.ones(2, 3), torch.ones(3, 2))
        library = openblas._library()
        assert library is not None
        told = library.scipy_openblas_get_num_threads64_
        told.restype = ctypes.c_int
        assert told() == threads
    finally:
        torch.set_num_threads(before)


def test_it_is_not_used_where_idle_threads_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "26")
    assert not openblas.fits(processor())
