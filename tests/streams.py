"""Streams of a GPU, played on a CPU: what is queued on one is done when somebody waits for it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FakeStream:
    """A queue of copies."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.queued: list[Callable[[], object]] = []

    def wait_stream(self, other: "FakeStream") -> None:
        """Be behind what the other has been given: here, have it done."""
        other.synchronize()

    def synchronize(self) -> None:
        while self.queued:
            self.queued.pop(0)()


class FakeCuda:
    """What ``torch.cuda`` has of streams and pinned memory, and nothing else.

    The stream that computes does at once what it is given, except that it is behind with copies of
    tensors that do not lie in one piece. ``refused`` are the threads to which CUDA said no.
    """

    def __init__(self, lockable: int = 2**40) -> None:
        self.computes = FakeStream()
        self.current = self.computes
        self.pinned: dict[int, int] = {}
        self.refused: set[int] = set()
        self._lockable = lockable

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Take the place of torch's own."""
        patch.setattr(torch.cuda, "Stream", FakeStream)
        patch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        patch.setattr(torch.cuda, "stream", self.stream)
        patch.setattr(torch.cuda, "device", lambda device: self.stream(self.current))
        patch.setattr(torch.cuda, "cudart", lambda: self)

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def cudaHostRegister(self, place: int, size: int, flags: int) -> int:
        overlap = any(place < at + other and at < place + size for at, other in self.pinned.items())
        if overlap or size > self._lockable:
            self.refused.add(threading.get_ident())
            return 712 if overlap else 2
        self.pinned[place] = size
        return 0

    def cudaHostUnregister(self, place: int) -> int:
        del self.pinned[place]
        return 0

    def queueing(self) -> "Queueing":
        """Return what puts copies that need not block on the current stream."""
        return Queueing(self)


class Queueing(TorchFunctionMode):
    """Delays copies that need not block, if both of their ends are pinned or on the GPU."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.reshape and not args[0].is_contiguous():
            made = torch.full((args[0].numel(),), torch.nan)
            self._cuda.computes.queued.append(lambda: made.copy_(args[0].flatten()))
            return made
        if func == Tensor.copy_ and kwargs.get("non_blocking") and self._is_pinned(args[0]):
            self._cuda.current.queued.append(lambda: args[0].copy_(args[1]))
            return args[0]
        return func(*args, **kwargs)

    def _is_pinned(self, target: Tensor) -> bool:
        """Tell whether all of it is in one piece of pinned memory."""
        start, end = target.data_ptr(), target.data_ptr() + target.nbytes
        return any(at <= start and end <= at + size for at, size in self._cuda.pinned.items())
