"""Matrix products by the fastest library in torch for the processor.

torch multiplies float32 matrices on CPUs with MKL, which runs at less than half speed on processors
of other makers; oneDNN, in the same build of torch, does not. Measured figures are in
benchmarks/README.md. The choice of library depends only on dtypes and devices, never on a
measurement, so that a resumed run computes the same bits.

All other products, such as bfloat16 or on GPUs, go through ``torch.nn.functional.linear``.

Shapes: M rows, N outputs, K inputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def product(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``, [M, N]; any strides. Not recorded by autograd."""
    if uses_onednn(x_MK, weight_NK):
        y_MN: Tensor = torch.ops.mkldnn._linear_pointwise(x_MK, weight_NK, bias_N, "none", [], "")
        return y_MN
    return F.linear(x_MK, weight_NK, bias_N)


def uses_onednn(x: Tensor, weight_NK: Tensor) -> bool:
    """Return whether a product of these two tensors uses oneDNN."""
    return (
        x.is_cpu
        and x.dtype == weight_NK.dtype == torch.float32
        and x.numel() > 0
        and weight_NK.numel() > 0
        and _HAS_ONEDNN
    )


def product_type(x: Tensor) -> torch.dtype:
    """Return the type in which products of x are computed: that of autocast, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
