"""Who ends what where ranks were left alone."""

import pytest

from actors.crew.orphans import End, whose_end


@pytest.mark.parametrize(
    ("number", "others", "end"),
    [
        (0, {}, "run"),
        (3, {}, "run"),
        (0, {1: 599.0, 2: 601.0}, "run"),
        (1, {0: 599.0, 2: 601.0}, "none"),
        (2, {3: 301.0}, "run"),
        (0, {1: 2.0, 2: 600.0}, "rank"),
        (2, {0: 600.0, 1: 2.0}, "rank"),
    ],
)
def test_one_of_many_ends_the_run_and_who_was_given_up_itself(
    number: int, others: dict[int, float], end: End
) -> None:
    assert whose_end(number, others, 600.0) == end
