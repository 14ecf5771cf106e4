"""Matrix products by the library that is fastest for the processor.

torch multiplies float32 matrices on CPUs with MKL, which runs at less than half speed on processors
of other makers. oneDNN is in the same build of torch, OpenBLAS comes with numpy. Which of the three
is fastest depends on the processor, on the role of the product and on its rows:
``moe.config.products`` has the measured table. The library follows from these, dtypes and devices
alone, so that a resumed run computes the same bits; a run records its rules.

All other products, such as bfloat16 or on GPUs, go through ``torch.nn.functional.linear``.

Shapes: M rows, N outputs, K inputs.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from moe.config.products import MEASURED, TORCH_ALONE, Library, Products, Role, always
from moe.nn import openblas
from moe.nn.processor import processor

Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def product(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``, [M, N]; any strides. Not recorded by autograd."""
    if not is_ruled(x_MK, weight_NK):
        return F.linear(x_MK, weight_NK, bias_N)
    return _multiply("forward", len(x_MK))(x_MK, weight_NK, bias_N)


def input_product(y_grad_MN: Tensor, weight_NK: Tensor) -> Tensor:
    """Return ``y_grad @ weight``, [M, K], the gradient of the rows of a product."""
    if not is_ruled(y_grad_MN, weight_NK):
        return F.linear(y_grad_MN, weight_NK.t())
    return _multiply("input", len(y_grad_MN))(y_grad_MN, weight_NK.t(), None)


def weight_product(y_grad_MN: Tensor, x_MK: Tensor) -> Tensor:
    """Return ``y_grad.T @ x``, [N, K], the gradient of the weight of a product."""
    if not is_ruled(y_grad_MN, x_MK):
        return F.linear(y_grad_MN.t(), x_MK.t())
    return _multiply("weight", len(x_MK))(y_grad_MN.t(), x_MK.t(), None)


def is_ruled(x: Tensor, other: Tensor) -> bool:
    """Tell whether the rules choose the library of a product of these two tensors."""
    return (
        x.is_cpu
        and x.dtype == other.dtype == torch.float32
        and x.numel() > 0
        and other.numel() > 0
        and _HAS_ONEDNN
    )


def in_use() -> Products:
    """Return the rules that products of this process follow."""
    if _InUse.products is None:
        _InUse.products = chosen({})
    return _InUse.products


def use(products: Products) -> None:
    """Let products of this process follow other rules from now on, as a resumed run does."""
    _InUse.products = products


def chosen(recorded: Mapping[str, Products]) -> Products:
    """Return the rules for this processor: as recorded by a run, or else as measured.

    Where OpenBLAS cannot be used, those of torch's own libraries take the place of rules with it.
    """
    here = processor()
    rules = recorded.get(here) or MEASURED.get(here) or always(here, "onednn")
    if not rules.uses("openblas") or openblas.fits(here):
        return rules
    return TORCH_ALONE.get(here) or always(here, "onednn")


class _InUse:
    products: Products | None = None


def _multiply(role: Role, rows: int) -> Multiply:
    return MULTIPLY[in_use().library(role, rows)]


def _by_onednn(x: Tensor, other: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, other, bias, "none", [], "")
    return y


def _by_mkl(x: Tensor, other: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, other.t()) if bias is None else torch.addmm(bias, x, other.t())


def _by_openblas(x: Tensor, other: Tensor, bias: Tensor | None) -> Tensor:
    y = openblas.multiply(x, other.t())
    return y if bias is None else y.add_(bias)


MULTIPLY: Mapping[Library, Multiply] = {
    "onednn": _by_onednn,
    "mkl": _by_mkl,
    "openblas": _by_openblas,
}
"""``x @ other.T + bias`` by each library."""
