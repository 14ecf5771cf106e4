"""The kind of processor that products run on, as torch names it."""

import torch


def processor() -> str:
    """Return the widest instructions that torch uses here, such as ``avx512`` or ``avx2``.

    torch's own variable ``ATEN_CPU_CAPABILITY`` lowers it.
    """
    return torch.backends.cpu.get_cpu_capability().lower()


def multiplies_bytes_exactly() -> bool:
    """Return whether products of 8-bit numbers are added in 32 bits at once (VNNI).

    Other processors add pairs of them in 16 bits first.
    """
    return bool(torch.cpu._is_vnni_supported())
