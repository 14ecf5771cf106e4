"""Copies of tensors: the same bytes whether a CPU makes them or a GPU beside its kernels."""

import threading
import time
from collections.abc import Iterator
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.checkpoint import buffers as module
from moe.checkpoint.buffers import Buffers
from moe.checkpoint.transfer import DirectTransfer, StreamTransfer
from tests.examples import examples
from tests.streams import FakeCuda, Queueing

DEVICE = torch.device("cuda", 0)


class Counting(DirectTransfer):
    """Counts copies and what they carry."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def copy(self, target: Tensor, source: Tensor) -> None:
        super().copy(target, source)
        self.sizes.append(source.nbytes)


def test_tensors_that_lie_side_by_side_are_one_copy() -> None:
    bucket, other = torch.arange(100.0), torch.arange(5.0)
    parts = [bucket[40:64].view(4, 6), other, bucket[0:30], bucket[30:40], bucket[80:100]]
    transfer = Counting()
    copies = Buffers(transfer).copied(parts)
    assert sorted(transfer.sizes) == [20, 80, 256]
    assert all(copy.equal(part) for copy, part in zip(copies, parts, strict=True))
    assert copies[2].data_ptr() + 120 == copies[3].data_ptr()


@settings(max_examples=examples(60))
@given(
    cuts=st.lists(st.integers(0, 64), max_size=6).map(sorted),
    order=st.randoms(use_true_random=False),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_any_cut_of_any_storage_is_copied(
    cuts: list[int], order: Random, dtype: torch.dtype
) -> None:
    whole = torch.randn(64).to(dtype)
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, 64], strict=True)]
    parts = [*pieces, whole[10:20], whole.view(8, 8).T, whole[1:3], torch.zeros(0), torch.ones(())]
    order.shuffle(parts)
    copies = Buffers(DirectTransfer()).copied(parts)
    assert all(copy.equal(part) for copy, part in zip(copies, parts, strict=True))
    assert all(copy.is_contiguous() for copy in copies)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE", 4096)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def queueing(cuda: FakeCuda) -> Iterator[Queueing]:
    with cuda.queueing() as mode:
        yield mode


@pytest.mark.usefixtures("small_pieces", "queueing")
def test_a_gpu_copies_beside_its_kernels_and_before_the_next_update(cuda: FakeCuda) -> None:
    bucket = torch.randn(5000)
    parts, before = [bucket[:3000], bucket[3000:4990]], bucket.clone()
    buffers = Buffers(StreamTransfer(DEVICE))
    copies = buffers.copied(parts)
    assert not copies[0].equal(parts[0]), "the copy is made later"
    buffers.hold_back()
    bucket.fill_(-1)
    buffers.wait()
    assert torch.cat(copies).equal(before[:4990])
    assert sum(cuda.pinned.values()) == buffers.bytes
    assert max(cuda.pinned.values()) == 4096


@pytest.mark.usefixtures("small_pieces", "queueing")
def test_the_next_copy_goes_to_the_memory_of_the_last(cuda: FakeCuda) -> None:
    buffers, tensor = Buffers(StreamTransfer(DEVICE)), torch.zeros(3000)
    buffers.prepare([tensor])
    places = {buffers.copied([tensor])[0].data_ptr()}
    pinned = dict(cuda.pinned)
    for value in (1.0, 2.0):
        buffers.hold_back()
        tensor.fill_(value)
        (copy,) = buffers.copied([tensor])
        buffers.wait()
        assert copy.equal(tensor)
        places.add(copy.data_ptr())
    assert len(places) == 1
    assert cuda.pinned == pinned


@pytest.mark.usefixtures("small_pieces")
def test_memory_is_pinned_before_the_next_step_begins(cuda: FakeCuda) -> None:
    """Beside receives that spin, two ranks that pin could wait for each other."""

    class Slow(StreamTransfer):
        def ready(self, piece: Tensor) -> None:
            time.sleep(0.01)
            super().ready(piece)

    buffers, tensor = Buffers(Slow(DEVICE)), torch.zeros(3000)
    buffers.prepare([tensor])
    assert tensor.nbytes <= buffers.bytes == sum(cuda.pinned.values())


@pytest.mark.usefixtures("small_pieces", "queueing")
def test_memory_is_unpinned_when_it_is_given_up(cuda: FakeCuda) -> None:
    buffers = Buffers(StreamTransfer(DEVICE))
    (small,) = buffers.copied([torch.ones(10)])
    (large,) = buffers.copied([torch.ones(4000)])
    assert small.equal(torch.ones(10)), "it was copied before its memory was unpinned"
    assert sum(cuda.pinned.values()) == buffers.bytes
    others = buffers.replaced()
    assert large.equal(torch.ones(4000)), "whoever reads it need not wait"
    del buffers
    assert not cuda.pinned
    assert others.bytes == 0


@pytest.mark.usefixtures("queueing")
def test_a_tensor_that_does_not_lie_in_one_piece_is_copied_at_once(cuda: FakeCuda) -> None:
    """It is made whole by the stream that computes, so the copy waits for that."""
    tensor = torch.arange(12.0).view(3, 4).T
    (copy,) = Buffers(StreamTransfer(DEVICE)).copied([tensor])
    assert copy.equal(tensor)


def test_memory_that_cannot_be_pinned_is_told_of_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(lockable=100)
    cuda.install(monkeypatch)
    transfer, piece = StreamTransfer(DEVICE), torch.empty(4096, dtype=torch.uint8)
    with pytest.warns(UserWarning, match=r"could not pin .* \(error 2\), .*ulimit -l"):
        transfer.ready(piece)
    assert threading.get_ident() not in cuda.refused, "torch raises it at the next kernel here"
    source = torch.ones_like(piece)
    with cuda.queueing():
        transfer.begin()
        transfer.copy(piece, source)
        transfer.wait()
    assert piece.equal(source)
    transfer.release([piece])


def test_memory_is_lent_for_what_comes_from_elsewhere() -> None:
    """Pieces lie where any numbers may lie, and the same memory is lent again."""
    buffers = Buffers(DirectTransfer())
    first, empty, second = buffers.lent([12, 0, 200])
    assert (first.nbytes, empty.nbytes, second.nbytes) == (12, 0, 200)
    second.view(torch.float64).fill_(2.0)
    first.view(torch.float32).fill_(1.0)
    assert second.view(torch.float64).tolist() == [2.0] * 25
    assert buffers.lent([8])[0].data_ptr() == first.data_ptr()
