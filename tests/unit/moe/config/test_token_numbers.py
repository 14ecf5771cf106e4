"""Which token numbers are refused, and what the refusal says."""

import numpy as np
import pytest

from moe.config.token_numbers import check_token_numbers
from moe.errors import DataError, RequestError


def test_numbers_of_the_vocabulary_and_ignored_ones_pass() -> None:
    check_token_numbers(np.array([[0, 96], [5, 3]], dtype=np.int32), 97, DataError)
    check_token_numbers((0, 96), 97, RequestError)
    check_token_numbers((), 97, RequestError)
    check_token_numbers(np.array([-100, 96]), 97, DataError, ignored=-100)


@pytest.mark.parametrize(
    ("numbers", "ignored", "told"),
    [([5, 97], None, 97), ([-100], None, -100), ([-100, -1], -100, -1)],
)
def test_others_are_named(numbers: list[int], ignored: int | None, told: int) -> None:
    expected = rf"^token {told} is not in the vocabulary of 97 tokens \(0 to 96\)"
    with pytest.raises(DataError, match=expected):
        check_token_numbers(np.array(numbers), 97, DataError, ignored)
