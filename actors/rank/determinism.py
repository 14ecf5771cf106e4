"""Whether the process of a rank computes the same bits each time: ``train.deterministic``.

The one place that sets what torch and CUDA need for it.
"""

import os

import torch

from moe.errors import LaunchError

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACES = (":4096:8", ":16:8")
"""The values with which cuBLAS adds up in one order (NVIDIA's cuBLAS manual, 2.1.4)."""


def set_deterministic(wanted: bool) -> None:
    """Have torch take deterministic kernels alone, or let it choose; before CUDA has started.

    An operation without such a kernel then raises RuntimeError. LaunchError where the environment
    asks cuBLAS for another order.
    """
    if wanted:
        _set_workspaces()
        # To fill new tensors finds reads of what was never written, at a pass over every tensor.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)  # imports torch's compiler, for two seconds


def _set_workspaces() -> None:
    given = os.environ.get(VARIABLE)
    if given is None and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise LaunchError(
            f"train.deterministic needs {VARIABLE}={_WORKSPACES[0]} before CUDA starts, and CUDA "
            "has started in this process; start the run anew"
        )
    if given not in (None, *_WORKSPACES):
        raise LaunchError(
            f"train.deterministic needs {VARIABLE}={_WORKSPACES[0]} or {_WORKSPACES[1]}, but the "
            f"environment of this rank says {given!r}; remove the variable, or the option"
        )
    os.environ.setdefault(VARIABLE, _WORKSPACES[0])
