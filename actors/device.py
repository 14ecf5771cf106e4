"""The device that a rank computes on: everything that differs between CPUs and GPUs in actors.

A rank asks its device for the backend of its process groups, the memory for snapshots, the most
memory it has held, and the time. So no other file of ``actors`` tests for CUDA.
"""

import ctypes
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import psutil
import torch

from moe.checkpoint.buffers import Buffers
from moe.checkpoint.transfer import DirectTransfer, StreamTransfer
from moe.errors import LaunchError
from moe.planning.devices.inventory import CPU
from moe.planning.devices.kinds import is_of_kind
from moe.sizes import size_text

GLOO = "gloo"
NCCL = "nccl"

Mark = float | torch.cuda.Event
"""A moment in the work of a device."""

_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""What returns free pages to the system; only the C library of GNU has it."""


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

    def rounding(self, threads: int) -> str:
        """Return a text that is equal on devices which compute the same bits from the same tensors.

        ``threads`` are those of this process.
        """

    def use(self) -> None:
        """Make it the device that this process computes on unless told otherwise."""

    def buffers(self) -> Buffers:
        """Return memory of the host that copies from the device go to."""

    def release(self, most: int) -> None:
        """Give back memory that is free but held, if the process holds more than ``most`` bytes."""

    def free_bytes(self, reserved: int) -> int:
        """Return how much memory can be taken for good by a process that may need as much again as
        it ever held, and for which ``reserved`` bytes of the host are set apart; 0: none are.
        """

    def synchronise(self) -> None:
        """Wait until the device has done all that it was given."""

    def clock(self, threads: int) -> Callable[[], float]:
        """Return what tells the seconds that work by so many threads of this process takes."""

    def mark(self) -> Mark:
        """Mark the moment when the device has done all that it was given; do not wait for it."""

    def between(self, start: Mark, end: Mark) -> float:
        """Return the seconds between two marks, both of which the device has reached."""


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

    def rounding(self, threads: int) -> str:
        """Return the number of threads: a gang is on one node, whose processors are alike."""
        return f"{self.name}, {threads} threads"

    def use(self) -> None:
        """Do nothing: a process always computes on its CPU."""

    def buffers(self) -> Buffers:
        """Return pageable memory."""
        return Buffers(DirectTransfer())

    def release(self, most: int) -> None:
        """Have the C library return free pages, where it can.

        Each product of a new shape leaves a small block of oneDNN's for good; a freed tensor below
        it is then too short for the next aligned tensor of its size, and the process grows.
        """
        if psutil.Process().memory_info().rss > most and _TRIM is not None:
            _TRIM(0)

    def free_bytes(self, reserved: int) -> int:
        """Return what the machine has left, and no more than is left of what is reserved."""
        peak, held = self.peak_bytes, int(psutil.Process().memory_info().rss)
        there = int(psutil.virtual_memory().available) - max(0, peak - held)
        return max(0, min(there, reserved - peak) if reserved else there)

    def synchronise(self) -> None:
        """Do nothing: there is nothing to wait for."""

    def clock(self, threads: int) -> Callable[[], float]:
        """Return the processor time of a single thread, which is what a machine left alone takes.

        Of several threads it is the clock on the wall.
        """
        return time.thread_time if threads == 1 else time.perf_counter

    def mark(self) -> Mark:
        """Return the clock on the wall: the work is done."""
        return time.perf_counter()

    def between(self, start: Mark, end: Mark) -> float:
        """Return the seconds between two marks."""
        assert isinstance(start, float)
        assert isinstance(end, float)
        return end - start


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

    @property
    def memory_bytes(self) -> int:
        """The memory that the driver gives it."""
        return int(torch.cuda.get_device_properties(self.torch_device).total_memory)

    def rounding(self, threads: int) -> str:
        """Return its name: kernels are chosen by the model of a GPU, threads only feed it."""
        return self.name

    def use(self) -> None:
        """Make it the current GPU, where kernels without a device of their own run."""
        torch.cuda.set_device(self.torch_device)

    def buffers(self) -> Buffers:
        """Return pinned memory, to which a GPU copies several times faster and beside kernels."""
        return Buffers(StreamTransfer(self.torch_device))

    def release(self, most: int) -> None:
        """Do nothing: torch's allocator returns what is free when memory is short."""

    def free_bytes(self, reserved: int) -> int:
        """Return what the GPU has left beside what torch's allocator holds, as a step needs it."""
        return int(torch.cuda.mem_get_info(self.torch_device)[0])

    def synchronise(self) -> None:
        """Wait until all queued kernels and copies are done."""
        torch.cuda.synchronize(self.torch_device)

    def clock(self, threads: int) -> Callable[[], float]:
        """Return the clock on the wall, however many threads feed the GPU."""
        return time.perf_counter

    def mark(self) -> Mark:
        """Queue a mark behind the kernels of the current stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def between(self, start: Mark, end: Mark) -> float:
        """Return the seconds of the GPU between two marks."""
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        return float(start.elapsed_time(end)) / 1000


def planned_device(kind: str) -> Device:
    """Return the device of this process that a plan means by a kind: the CPU, or its first GPU.

    Ray shows each rank the GPU that it gave it, and no other; a rank that asked for no GPU may see
    all of them. LaunchError where there is no GPU, or one of another kind.
    """
    if kind == CPU:
        return CpuDevice()
    if not torch.cuda.is_available():
        raise LaunchError(
            f"the plan gives this rank a GPU of kind {kind}, but its process sees none; start Ray "
            "on the node with --num-gpus, use a torch that is built for its GPUs, or make a plan "
            "for CPUs"
        )
    device = CudaDevice(0)
    if not is_of_kind(kind, device.name, device.memory_bytes):
        raise LaunchError(
            f"the plan gives this rank a GPU of kind {kind}, but its process has a {device.name} "
            f"with {size_text(device.memory_bytes)}; make the plan anew for the nodes that are "
            "there"
        )
    return device


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


def multiplies_bf16() -> bool:
    """Return whether the device of this process multiplies bf16 numbers by instructions of its own.

    A processor that does not takes many times as long as for float32.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def seconds_of(device: Device) -> float:
    """Return the clock on the wall once the device has done all that it was given."""
    device.synchronise()
    return time.perf_counter()
