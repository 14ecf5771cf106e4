"""How tensors come from a device into memory of the host.

A GPU can copy beside its kernels if the memory is pinned: the system may not move its pages. Then
training goes on while a snapshot is copied, until the next update of what is being copied.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor


class Transfer(Protocol):
    """Copies from one device, and the memory that they go to."""

    beside: bool
    """Whether memory may be made ready while the device works."""

    def ready(self, piece: Tensor) -> None:
        """Make a piece of new memory ready to be copied to; called from any thread."""

    def release(self, pieces: Sequence[Tensor]) -> None:
        """Have done with memory once nothing is copied to it any more."""

    def begin(self) -> None:
        """Begin copies of what the device computes with all that it has been given so far."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy within one piece of the memory; the source may not change before ``hold_back``."""

    def hold_back(self) -> None:
        """Let what the device is given from now on run after the copies; the host goes on."""

    def wait(self) -> None:
        """Wait until the copies are made, which the host may not read before."""


class DirectTransfer:
    """A CPU copies when it is told to."""

    beside = True

    def ready(self, piece: Tensor) -> None:
        """Touch it: the first touch takes several times as long as the copy."""
        piece.numpy().fill(0)

    def release(self, pieces: Sequence[Tensor]) -> None:
        """Do nothing."""

    def begin(self) -> None:
        """Do nothing: everything is computed."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy."""
        target.copy_(source)

    def hold_back(self) -> None:
        """Do nothing: the copies are made."""

    def wait(self) -> None:
        """Do nothing: the copies are made."""


class StreamTransfer:
    """A GPU copies on a stream of its own, to memory that is pinned piece by piece.

    Kernels of other threads are launched between two pieces. ``cudaHostRegister`` pins what is
    there, where torch's own pinned memory rounds sizes up to powers of two. To pin may wait for the
    whole GPU: beside receives that spin, two ranks that pin could wait for each other.
    """

    beside = False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._pinned: set[int] = set()

    def ready(self, piece: Tensor) -> None:
        """Pin it; warn where the system refuses, for copies to it hold the host up.

        CUDA remembers a refusal for the thread that asked, and torch would raise it at that
        thread's next kernel. So a thread asks that launches none.
        """
        with ThreadPoolExecutor(1) as asking:
            code = asking.submit(self._pinned_by_cuda, piece).result()
        if code == 0:
            self._pinned.add(piece.data_ptr())
        else:
            warnings.warn(
                f"CUDA could not pin memory for snapshots (error {code}), so training waits longer "
                "when it saves; let processes lock more memory (ulimit -l), or leave more free",
                stacklevel=2,
            )

    def _pinned_by_cuda(self, piece: Tensor) -> int:
        """Return the error of pinning it, 0 for none."""
        with torch.cuda.device(self._device):
            return int(_runtime().cudaHostRegister(piece.data_ptr(), piece.nbytes, 0))

    def release(self, pieces: Sequence[Tensor]) -> None:
        """Wait for the copies, then unpin what is pinned."""
        self.wait()
        for piece in pieces:
            if piece.data_ptr() in self._pinned:
                self._pinned.remove(piece.data_ptr())
                _runtime().cudaHostUnregister(piece.data_ptr())

    def begin(self) -> None:
        """Let the stream wait for the one that computes."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def hold_back(self) -> None:
        """Let the stream that computes wait for the copies."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def wait(self) -> None:
        """Wait for the stream."""
        if self._stream is not None:
            self._stream.synchronize()


def _runtime() -> Any:
    """Return torch's binding to the CUDA runtime."""
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
