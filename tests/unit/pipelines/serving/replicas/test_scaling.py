"""How many replicas there should be for what waits, and that it stays so."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.serving.replicas.scaling import LOAD, WAITING, Report, TokensWaiting, wanted

TOKENS = 1000
BUSY, IDLE = Report(0, 0.9), Report(0, 0.0)


@pytest.mark.parametrize(
    ("reports", "target", "queued", "expected"),
    [
        ([], 0, 0, 0),
        ([], 0, 3, 1),
        ([], 1, 3, 1),
        ([BUSY], 1, 0, 1),
        ([Report(1000, 1.0)], 1, 0, 1),
        ([Report(1001, 1.0)], 1, 0, 2),
        ([Report(4000, 1.0)], 1, 0, 4),
        ([Report(4000, 1.0)], 4, 0, 4),
        ([Report(4000, 1.0), IDLE], 2, 0, 4),
        ([BUSY, IDLE], 2, 0, 2),
        ([Report(0, 0.3), Report(0, 0.2)], 2, 0, 1),
        ([Report(0, 0.3), Report(5, 0.2)], 2, 0, 2),
        ([IDLE, IDLE, IDLE], 3, 0, 0),
        ([IDLE, IDLE], 3, 0, 3),
        ([IDLE], 1, 0.5, 1),
        ([IDLE], 1, 0, 0),
    ],
)
def test_wanted(reports: list[Report], target: int, queued: float, expected: int) -> None:
    assert wanted(reports, target, queued, TOKENS) == expected


some = st.lists(
    st.builds(Report, st.integers(0, 9000), st.floats(0, 1, allow_nan=False)),
    min_size=1,
    max_size=6,
)


@given(some, st.integers(0, 3), st.floats(0, 5))
def test_what_waits_never_makes_fewer(reports: list[Report], starting: int, queued: float) -> None:
    target = len(reports) + starting
    found = wanted(reports, target, queued, TOKENS)
    waiting = sum(report.waiting_tokens for report in reports)
    if waiting or queued:
        assert found >= target
    if waiting > TOKENS * len(reports):
        assert found * TOKENS >= waiting
    else:
        assert found <= max(target, 1)


@given(some)
def test_one_that_goes_is_not_missed_at_once(reports: list[Report]) -> None:
    """What is left has room for the work, so nothing asks for it back while that stays the same."""
    target = len(reports)
    fewer = wanted(reports, target, 0, TOKENS)
    if 0 < fewer < target:
        each = sum(report.load for report in reports) / fewer
        assert each <= 0.5 + 1e-9
        assert wanted([Report(0, each)] * fewer, fewer, 0, TOKENS) <= fewer


def test_the_policy_reads_the_newest_report_of_each_running_replica() -> None:
    def series(*values: float) -> list[Any]:
        return [SimpleNamespace(value=value) for value in values]

    context = SimpleNamespace(
        raw_metrics={
            WAITING: {"a": series(0, 3500), "gone": series(9000), "new": []},
            LOAD: {"a": series(1), "gone": series(1)},
        },
        running_replicas=["a", "new", "silent"],
        total_queued_requests=0.0,
        target_num_replicas=3,
    )
    assert TokensWaiting(TOKENS)(context) == (4, {})
