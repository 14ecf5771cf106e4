"""What drivers hear from a board whose owner died."""

import pytest
import ray

from cluster.session import Session
from moe.errors import ConfigError
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
        assert board.go_on(handle, 4)
        ray.kill(handle)
        board.begin(handle, plan, 3)
        board.fail(handle, ConfigError("too late"))
        assert board.plan_on(handle) is None
        assert board.failure(handle) is None
        assert board.still_wanted(handle) is False
        assert board.go_on(handle, 5) is False
    assert not board.stop("gone")
