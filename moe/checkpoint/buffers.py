"""Buffers for snapshots of tensors, kept from one save to the next."""

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from moe.checkpoint.memory import host_memory
from moe.checkpoint.transfer import Transfer

_ALIGNED = 64
_PIECE = 2**26
"""Number of bytes to make ready at a time, and the most that one copy has."""


class Buffers:
    """One block of CPU memory; while shapes and dtypes stay equal, no save allocates memory.

    New memory must be touched or pinned, which takes longer than the copy, so ``prepare`` makes it
    ready beforehand, in a thread where the device may work meanwhile. Tensors that lie side by
    side, as those of a bucket do, are copied in one go and lie side by side again.
    """

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self._block = torch.empty(0, dtype=torch.uint8)
        self._free: Callable[[], object] = lambda: None
        self._making: threading.Thread | None = None

    @property
    def bytes(self) -> int:
        """Size of the block in bytes."""
        return self._block.nbytes

    def replaced(self) -> "Buffers":
        """Return new buffers of the same device, for use while the memory of these is read."""
        self.wait()
        return Buffers(self.transfer)

    def prepare(self, tensors: Iterable[Tensor]) -> None:
        """Make memory ready for copies of tensors like these, or start to."""
        size = sum(_room(run.bytes) for run in _runs(list(tensors)))
        if self.transfer.beside:
            self._start(size)
        else:
            self._make_room(size)

    def copied(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return copies of tensors, valid until the next call; they are made after ``wait``.

        Until ``hold_back``, the tensors may be read but not changed.
        """
        runs = list(_runs(tensors))
        self._make_room(sum(_room(run.bytes) for run in runs))
        copies: dict[int, Tensor] = {}
        begin = 0
        self.transfer.begin()
        for run in runs:
            self._copy(run.source, begin)
            flat = self._flat(begin, run.source)
            for number, at in zip(run.numbers, run.places, strict=True):
                like = tensors[number]
                copies[number] = flat[at : at + like.numel()].view(like.shape)
            begin += _room(run.bytes)
        return [copies[number] for number in range(len(tensors))]

    def lent(self, sizes: Sequence[int]) -> list[Tensor]:
        """Return memory of so many bytes each, for what comes from elsewhere than the device.

        Valid until the next call of this or of ``copied``.
        """
        *begins, total = accumulate(map(_room, sizes), initial=0)
        self._make_room(total)
        return [
            self._block[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)
        ]

    def hold_back(self) -> None:
        """Let what the device is given from now on run after the copies; the host goes on."""
        self.transfer.hold_back()

    def wait(self) -> None:
        """Wait until the copies are made."""
        self.transfer.wait()

    def _copy(self, source: Tensor, begin: int) -> None:
        """Copy to the block from a byte on, piece by piece: no copy may span two of them."""
        whole = source.is_contiguous()
        flat, end = source.reshape(-1), begin + source.nbytes
        first = begin
        if not whole:
            self.transfer.begin()  # The stream that computes makes ``flat`` just now.
        while begin < end:
            stop = min((begin // _PIECE + 1) * _PIECE, end)
            part = flat[(begin - first) // source.itemsize : (stop - first) // source.itemsize]
            self.transfer.copy(self._flat(begin, part), part)
            begin = stop
        if not whole:
            self.wait()  # ``flat`` ends here.

    def _flat(self, begin: int, like: Tensor) -> Tensor:
        """Return the block from a byte on, as one dimension of numbers like those of a tensor."""
        return self._block[begin : begin + like.nbytes].view(like.dtype)

    def _make_room(self, size: int) -> None:
        self._start(size)
        if self._making is not None:
            self._making.join()
            self._making = None
        if size > self.bytes:
            self._make(size)  # The thread made less, or failed as this will.

    def _start(self, size: int) -> None:
        if self._making is None and size > self.bytes:
            self._making = threading.Thread(target=self._make, args=(size,), daemon=True)
            self._making.start()

    def _make(self, size: int) -> None:
        """Replace the block. It begins with a page: two pieces may not share one."""
        self._block = torch.empty(0, dtype=torch.uint8)
        self._free()
        block = host_memory(size)
        pieces = torch.split(block, _PIECE)
        free = weakref.finalize(self, self.transfer.release, pieces)
        free.atexit = False
        self._free = free
        for piece in pieces:
            self.transfer.ready(piece)
        self._block = block


class _Run(NamedTuple):
    """Tensors that lie side by side: their memory, their numbers, the element where each begins."""

    source: Tensor
    numbers: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return self.source.nbytes


def _runs(tensors: Sequence[Tensor]) -> Iterator[_Run]:
    """Yield the tensors by where they lie."""
    keys = {number: _place(tensor) for number, tensor in enumerate(tensors)}
    run: list[int] = []
    for number in sorted(keys, key=lambda each: keys[each]):
        if run and not _follows(tensors[run[-1]], tensors[number]):
            yield _run(tensors, run)
            run = []
        run.append(number)
    if run:
        yield _run(tensors, run)


def _run(tensors: Sequence[Tensor], numbers: Sequence[int]) -> _Run:
    first = tensors[numbers[0]].detach()
    if len(numbers) == 1:
        return _Run(first, tuple(numbers), (0,))
    *places, elements = accumulate((tensors[number].numel() for number in numbers), initial=0)
    source = first.as_strided((elements,), (1,), first.storage_offset())
    return _Run(source, tuple(numbers), tuple(places))


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage().data_ptr(), tensor.data_ptr()


def _follows(one: Tensor, other: Tensor) -> bool:
    """Tell whether the memory of one tensor ends where that of the other begins."""
    return (
        one.dtype == other.dtype
        and one.is_contiguous()
        and other.is_contiguous()
        and min(one.nbytes, other.nbytes) > 0
        and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        and one.data_ptr() + one.nbytes == other.data_ptr()
    )


def _room(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
