"""The device that a rank computes on: everything that differs between CPUs and GPUs in actors.

A rank asks its device for the backend of its process groups, the memory for snapshots, the most
memory it has held, and the time. So no other file of ``actors`` tests for CUDA.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from moe.checkpoint.buffers import Buffers

GLOO = "gloo"
NCCL = "nccl"


class Device(Protocol):
    """What ``actors`` know of a device."""

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""

    @property
    def name(self) -> str:
        """``cpu``, or the name that the driver gives a GPU."""

    @property
    def backend(self) -> str:
        """Backend of the process groups whose tensors lie on the device."""

    @property
    def peak_bytes(self) -> int:
        """The most memory of the device that this process ever held."""

    @property
    def shared(self) -> bool:
        """Whether the processes of a machine compete for it, so that one may get less of it."""

    def use(self) -> None:
        """Make it the device that this process computes on unless told otherwise."""

    def buffers(self) -> Buffers:
        """Return memory of the host that copies from the device go to."""

    def synchronise(self) -> None:
        """Wait until the device has done all that it was given."""

    def clock(self, threads: int) -> Callable[[], float]:
        """Return what tells the seconds that work by so many threads of this process takes."""


@dataclass(frozen=True, slots=True)
class CpuDevice:
    """The processors of this machine. Work is done when the call returns."""

    name: str = "cpu"
    backend: str = GLOO
    shared: bool = True

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        return torch.device("cpu")

    @property
    def peak_bytes(self) -> int:
        """The most memory that this process ever held."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def use(self) -> None:
        """Do nothing: a process always computes on its CPU."""

    def buffers(self) -> Buffers:
        """Return pageable memory."""
        return Buffers(pinned=False)

    def synchronise(self) -> None:
        """Do nothing: there is nothing to wait for."""

    def clock(self, threads: int) -> Callable[[], float]:
        """Return the processor time of a single thread, which is what a machine left alone takes.

        Of several threads it is the clock on the wall.
        """
        return time.thread_time if threads == 1 else time.perf_counter


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One GPU, by its number among those that this process sees. Work is queued, not waited for."""

    number: int
    backend: str = NCCL
    shared: bool = False

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        return torch.device("cuda", self.number)

    @property
    def name(self) -> str:
        """The name that the driver gives it."""
        return str(torch.cuda.get_device_name(self.torch_device))

    @property
    def peak_bytes(self) -> int:
        """The most memory that torch's allocator ever took from the GPU."""
        return int(torch.cuda.max_memory_reserved(self.torch_device))

    def use(self) -> None:
        """Make it the current GPU, where kernels without a device of their own run."""
        torch.cuda.set_device(self.torch_device)

    def buffers(self) -> Buffers:
        """Return pinned memory, to which a GPU copies several times faster."""
        return Buffers(pinned=True)

    def synchronise(self) -> None:
        """Wait until all queued kernels and copies are done."""
        torch.cuda.synchronize(self.torch_device)

    def clock(self, threads: int) -> Callable[[], float]:
        """Return the clock on the wall, however many threads feed the GPU."""
        return time.perf_counter


def local_device(number: int) -> Device:
    """Return a GPU of this process by its number, or the CPU where the process sees no GPU."""
    return CudaDevice(number) if torch.cuda.is_available() else CpuDevice()


def gpu_count() -> int:
    """Return how many GPUs this process sees."""
    return torch.cuda.device_count()


def uploaded(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on a device; the host does not wait until it has arrived.

    Only from pinned memory does a GPU copy while the host goes on.
    """
    if device.type == "cpu":
        return x
    return x.pin_memory().to(device, non_blocking=True)


def seconds_of(device: Device) -> float:
    """Return the clock on the wall once the device has done all that it was given."""
    device.synchronise()
    return time.perf_counter()
