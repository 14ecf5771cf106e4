"""The line that says how a run stands, and when it comes."""

import pytest

from pipelines.training.health import HEALTH_SECONDS, Health, HealthTimes


@pytest.mark.parametrize(
    ("health", "line"),
    [
        (
            Health(120, 0.931, 2, 2),
            "after step 120: goodput 93.1%, copies 2 steps old, 2 warm processes",
        ),
        (Health(7, 1.0, 1, 1), "after step 7: goodput 100.0%, copies 1 step old, 1 warm process"),
        (Health(1, None, None, 0), "after step 1: no whole copies, no warm process"),
    ],
)
def test_how_a_run_stands_is_one_line(health: Health, line: str) -> None:
    assert health.line == line


def test_the_line_comes_once_a_minute_and_after_what_happens() -> None:
    now = 100.0
    times = HealthTimes(lambda: now)
    assert not times.due()
    times.happened()
    assert times.due()
    assert not times.due()
    now += HEALTH_SECONDS
    assert times.due()
    assert not times.due()
