"""Processes that play the ranks of every plan in these tests."""

from collections.abc import Iterator

import pytest

from tests.ranks import Ranks, pool


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    with pool() as started:
        yield started
