"""When requests arrive and who leaves: drawn by the seed, in the share that was asked for."""

from itertools import pairwise

import pytest

from moe.errors import ConfigError
from pipelines.loading.load import Load


def test_arrivals_of_an_open_loop_are_a_poisson_process() -> None:
    moments = Load(4000, rate=50.0, seed=1).arrivals()
    assert moments is not None
    assert moments == Load(4000, rate=50.0, seed=1).arrivals()
    assert moments != Load(4000, rate=50.0, seed=2).arrivals()
    waits = [after - before for before, after in pairwise(moments)]
    mean = sum(waits) / len(waits)
    variance = sum((wait - mean) ** 2 for wait in waits) / len(waits)
    assert moments[0] == 0.0
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert variance == pytest.approx(1 / 50**2, rel=0.15)  # of an exponential: the mean squared


def test_a_closed_loop_has_no_arrivals() -> None:
    assert Load(3, concurrency=2).arrivals() is None


def test_the_share_that_leaves_does_so_before_the_end() -> None:
    leaving = Load(2000, concurrency=1, leave=0.25).leaving(8)
    gone = [count for count in leaving if count is not None]
    assert len(gone) / 2000 == pytest.approx(0.25, abs=0.04)
    assert set(gone) == set(range(1, 8))
    assert set(Load(50, concurrency=1).leaving(8)) == {None}
    assert None not in Load(50, concurrency=1, leave=1.0).leaving(1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "give one of them"),
        ({"concurrency": 1, "rate": 1.0}, "give one of them"),
        ({"concurrency": 0}, "--concurrency is 0"),
        ({"rate": 0.0}, "--rate is 0"),
        ({"concurrency": 1, "requests": 0}, "--requests is 0"),
        ({"concurrency": 1, "leave": 1.5}, "--leave is 1.5"),
    ],
)
def test_loads_that_cannot_be(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Load(**({"requests": 3} | wrong))  # type: ignore[arg-type]
