"""The share of time that goes into answering, whatever steps and batches take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.allowance import Allowance

SECONDS = st.floats(0.001, 50.0)


@given(st.floats(0.01, 0.9), st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=40))
def test_answering_takes_its_share_and_a_batch(
    share: float, life: list[tuple[float, float]]
) -> None:
    """A server that always has a batch: one is begun wherever there is time left."""
    allowance = Allowance(share)
    training = answering = longest = 0.0
    for step, batch in life:
        allowance.trained(step)
        training += step
        while allowance.seconds > 0:
            allowance.answered(batch)
            answering, longest = answering + batch, max(longest, batch)
        assert answering - longest <= share * (training + answering) + 1e-6


def test_what_is_not_used_is_not_kept() -> None:
    allowance = Allowance(0.2)
    for _ in range(100):
        allowance.trained(4.0)
    assert allowance.seconds == pytest.approx(1.0)
    allowance.answered(3.0)
    allowance.trained(4.0)
    assert allowance.seconds == pytest.approx(-1.0)
