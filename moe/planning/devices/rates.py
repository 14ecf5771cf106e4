"""Rates that devices sustain: a CPU thread of the cost model, and GPUs from public data sheets.

A data sheet gives peaks. The fraction of the peak that a training step reaches is calibrated on one
published run: Skywork-MoE trained at 690 tokens a second and GPU on 1,536 A800, which our simulator
reproduces (``benchmarks/skywork.py``) if products run at ``EFFICIENCY`` of the peak while they run;
bubbles, messages and memory-bound passes are simulated beside it. Other GPUs get the same fraction,
because we know no published run for them; a profile replaces it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

EFFICIENCY = 0.632
"""Fraction of the peak that products reach; see the module docstring."""

_MEMORY_EFFICIENCY = 0.8


@dataclass(frozen=True, slots=True)
class Rates:
    """Sustained rates of a device: matrix products, and passes over memory including new pages.

    ``flops_per_second`` is that of forward products; the products of a backward pass may have rates
    of their own, for the gradients of inputs and of weights; 0: as forward.
    """

    flops_per_second: float
    bytes_per_second: float
    input_flops_per_second: float = 0.0
    weight_flops_per_second: float = 0.0

    @property
    def backward_flops_per_second(self) -> float:
        """The rate of a backward pass, half of which is gradients of inputs and half of weights."""
        of_inputs = self.input_flops_per_second or self.flops_per_second
        of_weights = self.weight_flops_per_second or self.flops_per_second
        return of_inputs if of_inputs == of_weights else 2 / (1 / of_inputs + 1 / of_weights)

    def times(self, factor: float) -> "Rates":
        """Return the rates of a device that is ``factor`` times as fast."""
        return Rates(
            self.flops_per_second * factor,
            self.bytes_per_second * factor,
            self.input_flops_per_second * factor,
            self.weight_flops_per_second * factor,
        )


NVIDIA, AMD = "nvidia", "amd"
"""Vendors on whose GPUs ranks compute; ranks on different vendors cannot communicate."""

CPU_THREAD = Rates(flops_per_second=1.4e11, bytes_per_second=1.25e10)
"""One thread of a server CPU, in float32: the rates of a CPU of speed 1."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peaks of a data sheet: dense products in bf16 and float32, memory, links to its neighbours.

    ``link_bytes_per_second`` is one direction between two GPUs of a node. None of this
    was measured.
    """

    memory_bytes: int
    sixteen_bit_flops: float
    float32_flops: float
    bytes_per_second: float
    link_bytes_per_second: float
    vendor: str = NVIDIA

    def rates(self, sixteen_bit: bool) -> Rates:
        """Return the sustained rates: the calibrated fraction of the peaks."""
        peak = self.sixteen_bit_flops if sixteen_bit else self.float32_flops
        return Rates(peak * EFFICIENCY, self.bytes_per_second * _MEMORY_EFFICIENCY)


_GIB = 2**30

GPUS: Mapping[str, Gpu] = {
    "T4": Gpu(16 * _GIB, 65e12, 8.1e12, 320e9, 16e9),
    "P100": Gpu(16 * _GIB, 18.7e12, 9.3e12, 732e9, 16e9),
    "V100": Gpu(16 * _GIB, 125e12, 15.7e12, 900e9, 150e9),
    "V100-32G": Gpu(32 * _GIB, 125e12, 15.7e12, 900e9, 150e9),
    "A10": Gpu(24 * _GIB, 125e12, 31.2e12, 600e9, 32e9),
    "A10G": Gpu(24 * _GIB, 70e12, 35e12, 600e9, 32e9),
    "L4": Gpu(24 * _GIB, 121e12, 30.3e12, 300e9, 32e9),
    "L40": Gpu(48 * _GIB, 181e12, 90.5e12, 864e9, 32e9),
    "L40S": Gpu(48 * _GIB, 362e12, 91.6e12, 864e9, 32e9),
    "4090": Gpu(24 * _GIB, 165e12, 82.6e12, 1008e9, 32e9),
    "A100": Gpu(40 * _GIB, 312e12, 19.5e12, 1555e9, 300e9),
    "A100-40G": Gpu(40 * _GIB, 312e12, 19.5e12, 1555e9, 300e9),
    "A100-80G": Gpu(80 * _GIB, 312e12, 19.5e12, 2039e9, 300e9),
    "A800": Gpu(80 * _GIB, 312e12, 19.5e12, 2039e9, 200e9),
    "H100": Gpu(80 * _GIB, 989e12, 67e12, 3350e9, 450e9),
    "H100-PCIE": Gpu(80 * _GIB, 756e12, 51e12, 2000e9, 64e9),
    "H100-NVL": Gpu(94 * _GIB, 835e12, 60e12, 3900e9, 64e9),
    "H800": Gpu(80 * _GIB, 989e12, 67e12, 3350e9, 200e9),
    "H200": Gpu(141 * 10**9, 989e12, 67e12, 4800e9, 450e9),
    "B200": Gpu(180 * 10**9, 2250e12, 80e12, 7700e9, 900e9),
    "MI300X": Gpu(192 * 10**9, 1307e12, 163e12, 5300e9, 64e9, AMD),
}
"""By kind, as Ray names accelerators or as they are called. 16-bit peaks are without sparsity;
those of T4, P100 and V100 are float16's. Where a name covers several sizes, the smallest."""


def vendor_of(kind: str) -> str:
    """Return the vendor of a kind of GPU; for a kind that is not in the table, from its name."""
    if kind in GPUS:
        return GPUS[kind].vendor
    return AMD if kind.upper().startswith("AMD") else NVIDIA
