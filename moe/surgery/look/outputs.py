"""How alike the outputs of experts are on the same tokens: linear centred kernel alignment (CKA).

Kornblith et al. 2019, section 3, for the outputs Y_i [m, D] of two experts, with columns centred::

    K_i = Y_i Y_i^T                     CKA = <K_i, K_j> / (|K_i| |K_j|)

1 for outputs that are equal up to rotation and scale, also where the weights are not.

Shapes: N experts, m tokens, D hidden.
"""

import torch
from torch import Tensor

from moe.nn.similarity import cosines, inner_products
from moe.surgery.look.routed import Routed

TOKENS = 256
"""Tokens on which outputs are compared; an expert keeps a matrix [m, m] of them."""


@torch.no_grad()
def output_cka(found: Routed, tokens: int = TOKENS) -> Tensor:
    """Return the CKA of all pairs of experts on tokens spread evenly, [N, N] in float64."""
    x_mD = found.inputs[spread(len(found.inputs), tokens)]
    kernels = [_kernel(found.experts.output(number, x_mD)) for number in found.experts.numbers]
    return cosines(inner_products(kernels))


def spread(total: int, wanted: int) -> Tensor:
    """Return at most ``wanted`` of ``total`` numbers, evenly spread."""
    return torch.linspace(0, total - 1, min(wanted, total)).round().long()


def _kernel(y_mD: Tensor) -> Tensor:
    centred_mD = y_mD - y_mD.mean(dim=0)
    kernel_mm = centred_mD @ centred_mD.T
    length: float = kernel_mm.norm().item()
    return kernel_mm.div(max(length, torch.finfo(kernel_mm.dtype).tiny))
