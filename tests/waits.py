"""Counts what a host would wait for if the tensors of a CPU lay on a GPU.

A GPU works through a queue. An operation whose result has a size or a value that the host must know
empties the queue first: the host waits, and launches nothing meanwhile. Copies between the two wait
too, unless they leave from pinned memory.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = str(Path(__file__).parent.parent) + "/"
READS = {
    "_local_scalar_dense": 1,
    "bincount": 2,
    "equal": 1,
    "masked_select": 1,
    "nonzero": 1,
    "repeat_interleave": 1,
    "unique_consecutive": 1,
    "_unique2": 1,
    "unique_dim": 1,
}
"""Operations that tell the host a value or a size, and how often: bincount asks for both ends."""

ON_CPUS = ("moe/nn/experts/loop.py", "moe/nn/openblas.py")
"""What no GPU runs: the bank that asks how many rows each expert has, and products by numpy."""

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPIES = {Tensor.cpu, Tensor.cuda, Tensor.numpy, Tensor.tolist}
MAKES = {torch.tensor, torch.as_tensor}

Waits = Counter[tuple[str, str]]
"""How often the host would wait, by operation and the file of ours that asked for it."""


@contextmanager
def counted() -> Iterator[Waits]:
    """Count the waits that a GPU would make."""
    found: Waits = Counter()

    def note(operation: str, times: int = 1) -> None:
        file = _file()
        if file not in ON_CPUS:
            found[operation, file] += times

    with _Calls(note), _Operations(note):
        yield found


class _Operations(TorchDispatchMode):
    """Sees every operation, those of a backward pass too."""

    def __init__(self, note: Callable[..., None]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in READS:
            self._note(name, READS[name])
        masks = args[1] if name in INDEXING else ()
        if any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in masks):
            self._note("a mask as an index")
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    """Sees the calls of tensors that do nothing on a CPU, or nothing that is dispatched."""

    def __init__(self, note: Callable[..., None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in COPIES or (func == Tensor.to and _moves(args, kwargs)):
            self._note(func.__name__)
        elif func in MAKES and kwargs.get("device") is not None:
            self._note("numbers of the host on a device")
        elif func in (Tensor.__getitem__, Tensor.__setitem__) and _listed(args[1]):
            self._note("a list as an index")
        return func(*args, **kwargs)


def _moves(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    devices = [each for each in (*args[1:], *kwargs.values()) if isinstance(each, torch.device)]
    return bool(devices) and not kwargs.get("non_blocking", False)


def _listed(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, list) for part in parts)


def _file() -> str:
    """Return the innermost file of the repository on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and name != __file__ and "/.venv" not in name:
            return name.removeprefix(ROOT)
        frame = frame.f_back
    return "elsewhere"
