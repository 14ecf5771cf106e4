"""The kind of processor that products run on, as torch names it."""

import torch


def processor() -> str:
    """Return the widest instructions that torch uses here, such as ``avx512`` or ``avx2``.

    torch's own variable ``ATEN_CPU_CAPABILITY`` lowers it.
    """
    return torch.backends.cpu.get_cpu_capability().lower()
