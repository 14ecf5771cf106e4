"""What a rank asks of its device: on the CPU for real, of a GPU what can be told without one."""

import resource
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from actors.device import (
    CpuDevice,
    CudaDevice,
    gpu_count,
    local_device,
    planned_device,
    seconds_of,
    uploaded,
)
from moe.checkpoint.transfer import DirectTransfer, StreamTransfer
from moe.errors import LaunchError
from tests import waits


def test_a_process_without_a_gpu_computes_on_its_cpu() -> None:
    device = local_device(3)
    expected = CudaDevice(3) if torch.cuda.is_available() else CpuDevice()
    assert device == expected
    assert isinstance(device, CudaDevice) == (gpu_count() > 0)


def test_the_cpu() -> None:
    device = CpuDevice()
    device.use()
    assert device.torch_device == torch.zeros(1).device
    assert (device.name, device.backend, device.shared) == ("cpu", "gloo", True)
    assert isinstance(device.buffers().transfer, DirectTransfer)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert device.peak_bytes >= held > 2**20


def test_one_thread_is_timed_by_its_own_time_and_several_by_the_wall() -> None:
    device, rests = CpuDevice(), 0.05
    alone, together = device.clock(1), device.clock(2)
    before = alone(), together()
    time.sleep(rests)
    assert alone() - before[0] < rests / 2
    assert together() - before[1] >= rests
    started = seconds_of(device)
    time.sleep(rests)
    assert seconds_of(device) - started >= rests


def test_a_gpu_as_far_as_it_can_be_told_without_one() -> None:
    device = CudaDevice(2)
    assert device.torch_device == torch.device("cuda", 2)
    assert (device.backend, device.shared) == ("nccl", False)
    assert isinstance(device.buffers().transfer, StreamTransfer)
    assert device.clock(1) is device.clock(8) is time.perf_counter


def test_the_host_does_not_wait_for_what_it_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without memory stands for the GPU, and a list for torch's pinned memory."""
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    numbers = torch.arange(3)
    assert uploaded(numbers, torch.device("cpu")) is numbers
    assert not pinned
    with waits.counted() as found:
        assert uploaded(numbers, torch.device("meta")).device.type == "meta"
    assert pinned[0] is numbers
    assert not found


def _one_gpu(monkeypatch: pytest.MonkeyPatch, name: str, memory: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    properties = SimpleNamespace(total_memory=memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


def test_the_kind_of_the_plan_chooses_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    _one_gpu(monkeypatch, "NVIDIA A100-SXM4-80GB", 79 * 2**30)
    assert planned_device("cpu") == CpuDevice()
    assert planned_device("A100-80G") == planned_device("of-mine") == CudaDevice(0)
    with pytest.raises(LaunchError, match="kind H100, but its process has a NVIDIA A100-SXM4-80GB"):
        planned_device("H100")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LaunchError, match="kind A100-80G, but its process sees none"):
        planned_device("A100-80G")


def test_gpus_round_alike_by_their_name_and_cpus_by_their_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, gpu = CpuDevice(), CudaDevice(0)
    assert cpu.rounding(1) == CpuDevice().rounding(1) != cpu.rounding(2)
    _one_gpu(monkeypatch, "NVIDIA A100-SXM4-40GB", 39 * 2**30)
    alike = gpu.rounding(1)
    assert alike == gpu.rounding(8)
    _one_gpu(monkeypatch, "NVIDIA A100-PCIE-40GB", 39 * 2**30)
    assert gpu.rounding(1) != alike


def test_the_peak_of_a_gpu_is_what_torch_took_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 7 * device.index)
    assert CudaDevice(2).peak_bytes == 14


def test_memory_that_is_free_but_held_goes_back_where_the_process_holds_too_much() -> None:
    """Many tensors below the size that is mapped on its own, and a last one above them."""

    def held() -> int:
        return psutil.Process().memory_info().rss

    before = held()
    tensors = [torch.ones(2**14) for _ in range(1024)]
    last = torch.ones(2**14)
    tensors.clear()
    device = CpuDevice()
    device.release(most=2**60)
    kept = held()
    device.release(most=0)
    assert last.sum() == 2**14
    assert held() <= max(kept, before + 2**24)
    assert held() < before + 2**25


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu() -> None:
    device = CudaDevice(0)
    device.use()
    value = torch.randn(2048, 2048, device=device.torch_device)
    started = seconds_of(device)
    product = value @ value
    assert seconds_of(device) > started
    assert device.peak_bytes >= value.nbytes + product.nbytes
    assert device.name == torch.cuda.get_device_name(0)
    buffers = device.buffers()
    (copy,) = buffers.copied([product])
    buffers.wait()
    assert copy.is_pinned()
    assert copy.equal(product.cpu())
