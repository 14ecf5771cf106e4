"""The share of each expert in the expert that a group is merged into.

By least squares, shares a are those with which one expert would serve the tokens of the group best
if outputs, and not weights, were mixed::

    sum over tokens | G sum_i a_i f_i(x)  -  sum_i g_i f_i(x) |^2  ->  min,   sum a = 1,  a >= 0

where g_i is the routing weight of expert i, 0 where it is not chosen, and G their sum. A small part
of the shares by usage is added, for groups whose experts compute the same.

Shapes: I experts of the group, T tokens, m sampled tokens, D hidden.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moe.surgery.look.outputs import spread
from moe.surgery.look.routed import Routed

_TOKENS = 512
"""Tokens of a group on which shares are fitted."""

_RIDGE = 1e-3
"""Weight of the shares by usage, relative to the mean square of the outputs."""


def by_usage(found: Routed, experts: Sequence[int]) -> Tensor:
    """Return shares in proportion to the tokens of each expert; even ones without tokens."""
    load_I = found.load[list(experts)].double()
    return load_I / load_I.sum() if load_I.sum() > 0 else torch.full_like(load_I, 1 / len(experts))


@torch.no_grad()
def by_least_squares(found: Routed, experts: Sequence[int]) -> Tensor:
    """Return the shares that fit the weighted outputs of the group on its tokens."""
    usage_I = by_usage(found, experts)
    weights_TI = _weights(found, experts)
    busy_T = weights_TI.sum(dim=1).nonzero().flatten()
    if not len(busy_T):
        return usage_I
    picked_m = busy_T[spread(len(busy_T), _TOKENS)]
    weights_mI = weights_TI[picked_m].double()
    outputs = [found.experts.output(number, found.inputs[picked_m]) for number in experts]
    y_ImD = torch.stack(outputs).double()
    wanted_mD = torch.einsum("mi,imd->md", weights_mI, y_ImD)
    z_ImD = y_ImD * weights_mI.sum(dim=1)[None, :, None]
    normal_II = torch.einsum("imd,jmd->ij", z_ImD, z_ImD)
    right_I = torch.einsum("imd,md->i", z_ImD, wanted_mD)
    ridge = _RIDGE * normal_II.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    normal_II += ridge * torch.eye(len(experts), dtype=torch.float64)
    return _on_simplex(normal_II, right_I + ridge * usage_I)


def _weights(found: Routed, experts: Sequence[int]) -> Tensor:
    """Return the routing weight of each token for each expert of the group, [T, I]."""
    chosen_TK, weights_TK = found.routing.experts, found.routing.weights
    columns = [(weights_TK * (chosen_TK == number)).sum(dim=1) for number in experts]
    return torch.stack(columns, dim=1)


def _on_simplex(normal_II: Tensor, right_I: Tensor) -> Tensor:
    """Minimise ``a A a / 2 - b a`` where a sums to one and is not negative; the most negative entry
    is set to zero until none is left.
    """
    free = list(range(len(right_I)))
    while True:
        size = len(free)
        bordered = torch.ones(size + 1, size + 1, dtype=torch.float64)
        bordered[:size, :size] = normal_II[free][:, free]
        bordered[size, size] = 0.0
        right = torch.cat([right_I[free], torch.ones(1, dtype=torch.float64)])
        found = torch.linalg.solve(bordered, right)[:size]
        if size == 1 or found.min() >= 0:
            shares_I = torch.zeros_like(right_I)
            shares_I[free] = found.clamp(min=0)
            return shares_I / shares_I.sum()
        del free[int(found.argmin())]
