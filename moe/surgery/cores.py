"""Processor cores shared with the thread that hashes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_core_spared() -> Iterator[None]:
    """Reserve one core: torch's threads spin while they wait, and would slow the hashing.

    On two cores that costs more than the second core gains.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
