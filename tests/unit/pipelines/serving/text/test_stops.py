"""Stop texts: the same answer however the text is cut, and never a part of a stop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.serving.text.stops import StopFilter

LETTERS = st.text("abc", max_size=20)


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """Grow the text by one character at a time, and cut at the first stop it ends with."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


@given(pieces=st.lists(LETTERS), stops=st.lists(st.text("abc", min_size=1, max_size=5), max_size=4))
def test_any_cut_gives_the_same_answer(pieces: list[str], stops: list[str]) -> None:
    answer, stopped = expected("".join(pieces), stops)
    found, shown = StopFilter(stops), ""
    for piece in pieces:
        text, ended = found.push(piece)
        shown += text
        assert answer.startswith(shown)
        if ended:
            assert stopped
            assert shown == answer
            return
    assert not stopped
    assert shown + found.finish() == answer


@pytest.mark.parametrize(
    ("pieces", "stops", "shown"),
    [
        (["one ST", "OP two"], ["STOP"], ["one ", ""]),
        (["one ST", "ONE"], ["STOP"], ["one ", "STONE"]),
        (["a", "a", "a", "b"], ["aab"], ["", "", "a", ""]),
        (["no stops"], [], ["no stops"]),
    ],
)
def test_only_what_may_begin_a_stop_is_held_back(
    pieces: list[str], stops: list[str], shown: list[str]
) -> None:
    found = StopFilter(stops)
    assert [found.push(piece)[0] for piece in pieces] == shown
