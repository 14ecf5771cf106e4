"""What the driver hears from a board whose owner died."""

import pytest
import ray

from cluster.session import Session
from pipelines.training import board
from tests import runs
from tests.plans import SMOLLM2

pytestmark = pytest.mark.ray


def test_a_dead_board_wants_nothing_and_knows_nothing(ray_session: Session) -> None:
    plan = runs.plan(SMOLLM2, (15, 15))
    with board.open_board("gone") as handle:
        board.begin(handle, plan, 3)
        assert board.plan_on(handle) == plan
        assert board.still_wanted(handle)
        ray.kill(handle)
        board.begin(handle, plan, 3)
        assert board.plan_on(handle) is None
        assert board.still_wanted(handle) is False
    assert not board.stop("gone")
