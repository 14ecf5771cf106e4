"""Memory for what is large: zero, aligned, its pages not there before they are used."""

import mmap

import psutil
import torch

from moe.checkpoint.memory import host_memory, zeros

CPU = torch.device("cpu")


def test_it_is_zero_and_begins_with_a_page() -> None:
    found = zeros(100_003, torch.bfloat16, CPU)
    assert found.dtype == torch.bfloat16
    assert found.shape == (100_003,)
    assert not found.any()
    assert found.data_ptr() % mmap.PAGESIZE == 0
    found.fill_(2.0)
    assert found.sum(dtype=torch.float32) == 200_006


def test_none_is_asked_for() -> None:
    assert host_memory(0).numel() == 0


def test_pages_come_when_they_are_used_and_go_with_the_tensor() -> None:
    size, process = 2**28, psutil.Process()
    before = process.memory_info().rss
    memory = host_memory(size)
    assert process.memory_info().rss - before < size // 4
    memory.fill_(1)
    assert process.memory_info().rss - before > size * 3 // 4
    del memory
    assert process.memory_info().rss - before < size // 4
