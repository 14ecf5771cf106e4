"""The variables of the environment that the process of a rank needs before its first group.

Libraries read them once: the interface when a group is made, the allocator's and the driver's when
the process first touches a GPU. So the process of a rank sets them before anything else. A value
that is there already is kept. `docs/reference/environment.md` tells why each has its value.
"""

import os

import psutil

VARIABLES = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "CUDA_MODULE_LOADING": "EAGER",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}
"""What every rank needs; none of them has an effect on a CPU."""

_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Two names of one setting: torch renamed the first and still reads it."""


def prepare(host: str | None = None) -> None:
    """Set the variables; ``host`` is the address where the ranks of other nodes reach this one.

    Left alone gloo asks for the name of the host, which many systems answer with a loopback
    address, and NCCL takes the first interface that is up.
    """
    for name, value in VARIABLES.items():
        if name not in _ALLOCATOR or not any(each in os.environ for each in _ALLOCATOR):
            os.environ.setdefault(name, value)
    interface = None if host is None else _interface_of(host)
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")


def _interface_of(host: str) -> str | None:
    """Return the interface that has an address; None where none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == host for address in addresses):
            return name
    return None
