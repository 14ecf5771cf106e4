"""What a rank asks of its device: on the CPU for real, of a GPU what can be told without one."""

import resource
import time

import pytest
import torch

from actors.device import CpuDevice, CudaDevice, gpu_count, local_device, seconds_of, uploaded
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
    assert not device.buffers().pinned
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
    assert device.buffers().pinned
    assert device.buffers().replaced().pinned
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
    assert copy.is_pinned()
    assert copy.equal(product.cpu())
