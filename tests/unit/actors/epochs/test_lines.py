"""Which routes there are between stages, and in what order ranks open them."""

from collections import Counter

import pytest

from actors.epochs.lines import DOWN, UP, Route, routes_of


def ends(homes: tuple[int, ...]) -> set[int]:
    """Return how many ends of routes stages have."""
    counted = Counter(s for route in routes_of(homes) for s in (route.sender, route.receiver))
    return set(counted.values())


def test_a_pipeline_of_one_chunk_a_stage() -> None:
    assert routes_of((0, 1, 2)) == (
        Route(DOWN, 0, 1),
        Route(UP, 2, 1),
        Route(DOWN, 1, 2),
        Route(UP, 1, 0),
    )


def test_a_server_has_no_way_back() -> None:
    assert routes_of((0, 1, 2), (DOWN,)) == (Route(DOWN, 0, 1), Route(DOWN, 1, 2))


@pytest.mark.parametrize(
    ("homes", "expected"),
    [
        ((0,), set()),
        ((0, 0), set()),
        ((0, 1), {2}),
        ((0, 1, 2, 3), {2, 4}),
        ((0, 1) * 3, {4}),
        ((0, 1, 2, 3) * 2, {4}),
        ((0, 1, 1, 0), {4}),
        ((0, 1, 2, 2, 1, 0), {4, 8}),
    ],
)
def test_ends_of_a_stage(homes: tuple[int, ...], expected: set[int]) -> None:
    assert ends(homes) == expected
    assert len(set(routes_of(homes))) == len(routes_of(homes))


def test_every_other_stage_sends_first_so_that_many_open_at_once() -> None:
    routes = [route for route in routes_of(tuple(range(8))) if route.way == DOWN]
    assert [route.sender for route in routes] == [0, 2, 4, 6, 1, 3, 5]
