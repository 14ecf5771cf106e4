"""Two slots of copies: the boundary known to be whole stays until the next is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.state.copies import Slots
from moe.checkpoint.buffers import Buffers
from moe.checkpoint.transfer import DirectTransfer
from moe.planning.plan.seats import Seat
from tests.examples import examples

SEAT, OTHER = Seat(0, 0, 0), Seat(0, 1, 0)


def slots() -> Slots:
    return Slots(lambda: Buffers(DirectTransfer()))


def fill(found: Slots, step: int, seat: Seat = SEAT) -> None:
    found.emptied().fill(seat, step, [torch.full((3,), float(step))], {})


def test_a_copy_is_what_was_there_whatever_comes_after() -> None:
    found, held = slots(), torch.tensor([1.5, -2.0])
    found.emptied().fill(SEAT, 4, [held, torch.zeros(0)], {})
    held.zero_()
    copy = found.find(SEAT, 4)
    assert copy is not None
    assert copy.bytes == 8
    assert copy.tensors[0].view(torch.float32).tolist() == [1.5, -2.0]
    assert found.find(OTHER, 4) is None


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.booleans(), max_size=12))
def test_the_newest_whole_boundary_is_never_overwritten(whole: list[bool]) -> None:
    found, newest = slots(), None
    for step, becomes_whole in enumerate(whole):
        fill(found, step)
        if becomes_whole:
            found.keep(SEAT, step)
            newest = step
        assert found.find(SEAT, step) is not None
        if newest is not None:
            copy = found.find(SEAT, newest)
            assert copy is not None
            assert copy.tensors[0].view(torch.float32).tolist() == [newest] * 3


def test_copies_of_one_step_of_two_ranks_are_told_apart() -> None:
    """Where the holders change, a rank holds what it held until it has what it is to hold."""
    found = slots()
    fill(found, 4)
    found.keep(SEAT, 4)
    fill(found, 4, OTHER)
    found.keep(OTHER, 4)
    fill(found, 6, OTHER)
    assert [(copy.seat, copy.step) for copy in found.copies] == [(OTHER, 6), (OTHER, 4)]


def test_what_is_done_again_is_forgotten() -> None:
    found = slots()
    fill(found, 4)
    fill(found, 6)
    found.keep(SEAT, 6)
    found.forget_after(5)
    assert ([copy.step for copy in found.copies], found.kept) == ([4], -1)


@pytest.mark.parametrize("kept", [4, 9])
def test_only_what_is_there_is_kept(kept: int) -> None:
    found = slots()
    fill(found, 4)
    found.keep(SEAT, 4)
    found.keep(SEAT, kept)
    assert found.kept == 4
