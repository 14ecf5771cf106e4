"""Admission as a value: order, room, and what closing stops."""

import pytest

from pipelines.serving.generation.admission import Admission
from pipelines.serving.refusals import Overloaded, Unavailable


def test_first_come_first_begun_until_all_have_ended() -> None:
    start: Admission[str] = Admission(3)
    queue = start.admit(["a", "b"]).begin()
    assert (queue.running, queue.waiting) == (("a",), ("b",))
    queue = queue.admit(["c"]).begin()
    assert (queue.running, queue.waiting) == (("a", "b"), ("c",))
    queue = queue.end("a").begin().begin()
    assert (queue.running, queue.waiting) == (("b", "c"), ())
    assert queue.end("b").end("c") == start


def test_all_are_admitted_or_none() -> None:
    queue: Admission[str] = Admission(3).admit(["a"]).begin()
    with pytest.raises(Overloaded, match=r"1 generations .* holds 3, so 3 more do not fit"):
        queue.admit(["b", "c", "d"])
    assert queue.admit(["b", "c"]).waiting == ("b", "c")


def test_only_what_waits_is_forgotten() -> None:
    queue: Admission[str] = Admission(3).admit(["a", "b"]).begin()
    assert queue.forget("b").waiting == ()
    assert queue.forget("a") == queue
    assert queue.emptied().running == ("a",)


def test_after_closing_nothing_is_admitted_or_begun() -> None:
    queue: Admission[str] = Admission(3).admit(["a"]).close()
    assert queue.begin() == queue
    with pytest.raises(Unavailable, match="shutting down"):
        queue.admit(["b"])
