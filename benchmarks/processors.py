"""Which processor a benchmark runs on; bars differ by its kind."""

import platform
from pathlib import Path

from moe.nn.processor import processor

_CPUINFO = Path("/proc/cpuinfo")


def described() -> str:
    """Return the kind and the model of the processor, such as ``avx512, AMD EPYC``."""
    return f"{processor()}, {_model()}"


def _model() -> str:
    if not _CPUINFO.exists():
        return platform.processor() or platform.machine()
    lines = _CPUINFO.read_text().splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
