"""Versions, the card, and its ceilings: what all other figures are shares of."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.rows import Row, Setting
from benchmarks.gpu.timing import milliseconds

CEILINGS, FLOPS, BYTES = "ceilings", "bf16 TFLOP/s", "copy GB/s"
"""The row from which the check reads ``Ceilings``, and its two figures."""

NO_GPU = "torch sees no GPU here; --device cpu --tiny runs the code of all parts on a CPU"
"""What the first part fails with, and no other needs to try."""

_PACKAGES = ("torch", "triton", "transformers", "numpy", "pydantic", "safetensors")


def part(setting: Setting) -> Iterator[Row]:
    """Yield what runs here, and how fast it is at best."""
    yield Row("versions", {"python": platform.python_version(), **_versions()})
    if setting.cuda and not torch.cuda.is_available():
        raise RuntimeError(NO_GPU)
    if setting.cuda:
        yield Row("card", _card())
    side = 128 if setting.tiny else 8192
    figures = {FLOPS: _product(setting, side, torch.bfloat16), BYTES: _copy(setting)}
    yield Row(CEILINGS, figures)
    torch.set_float32_matmul_precision("highest")
    exact = _product(setting, side // 2, torch.float32)
    yield Row("float32 product, no TF32", {"TFLOP/s": exact})


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _card() -> dict[str, str | int | float | None]:
    card = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    return {
        "name": card.name,
        "capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count,
        "free GB": free / 1e9,
        "total GB": total / 1e9,
        "CUDA": torch.version.cuda,
    }


def _product(setting: Setting, side: int, dtype: torch.dtype) -> float:
    """Return TFLOP/s of a square product of random numbers; products of zeros run faster."""
    one, other = (torch.randn(side, side, device=setting.torch_device).to(dtype) for _ in range(2))
    out = torch.empty_like(one)
    taken = milliseconds(setting, lambda: torch.mm(one, other, out=out))
    return 2 * side**3 / taken / 1e9


def _copy(setting: Setting) -> float:
    """Return GB/s of a copy within the device, bytes read plus bytes written."""
    size = 2**20 if setting.tiny else 2**32
    source, target = (
        torch.ones(size, dtype=torch.uint8, device=setting.torch_device) for _ in range(2)
    )
    taken = milliseconds(setting, lambda: target.copy_(source))
    return 2 * size / taken / 1e6
