"""The store where the ranks of an epoch meet, and ranks whose store has gone meanwhile."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch.distributed import DistError

from actors.epochs.groups import open_store, reach_store
from moe.errors import RankLost

HOST = "127.0.0.1"


@contextmanager
def fails_within(least: float, most: float, error: type[Exception]) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(error):
        yield
    assert least <= time.monotonic() - began <= most


def test_a_store_that_has_gone_is_not_waited_for_as_long_as_for_other_ranks() -> None:
    store = open_store(HOST, 60.0)
    port = store.port
    del store
    with fails_within(0.0, 8.0, RankLost):
        reach_store(HOST, port, 60.0)


def test_for_other_ranks_a_rank_waits_as_long_as_it_is_told() -> None:
    store = open_store(HOST, 60.0)
    reached = reach_store(HOST, store.port, 0.7)
    with fails_within(0.6, 20.0, DistError):
        reached.get("what nobody sets")
