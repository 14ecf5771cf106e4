import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from cluster.session import Session, session


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Session]:
    with session("local", cpus=8) as started:
        yield started
