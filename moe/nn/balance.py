"""Losses that keep experts evenly loaded, their way into the backward pass, and what is measured.

Skywork-MoE section 2.2, equation 4, over T tokens and n experts with full softmax g::

    skywork:  sum_j (1/n - mean_i g_ij)^2
    switch:   n * sum_j f_j * P_j        f_j = share of assignments to j,  P_j = mean_i g_ij

The first vanishes at balanced mean probability and holds no counts; the second is the usual form.
Coefficients are not transferable between them. Both are taken per layer: pooled over layers, two
layers collapsed onto different experts would look balanced.

Shapes: T tokens, N experts.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

BalanceLoss = Literal["skywork", "switch"]


class RoutingStatistics(NamedTuple):
    """What one MoE layer did with one micro-batch; detached.

    ``load`` [N] counts assignments, ``drop_rate`` is a share of assignments, ``balance_loss`` the
    loss without its coefficient, ``sharpness`` the mean ratio of the two largest probabilities.
    """

    load: Tensor
    drop_rate: Tensor
    balance_loss: Tensor
    sharpness: Tensor


def balance_loss(kind: BalanceLoss, probabilities_TN: Tensor, load_N: Tensor) -> Tensor:
    """Return the balance loss of one layer; ``load`` counts the assignments to each expert.

    No tokens, no loss.
    """
    if not len(probabilities_TN):
        return probabilities_TN.sum()
    mean_N = probabilities_TN.mean(dim=0)
    experts = mean_N.numel()
    if kind == "skywork":
        return (1.0 / experts - mean_N).square().sum()
    share_N = load_N.to(mean_N.dtype) / load_N.sum().clamp(min=1)
    return experts * (share_N * mean_N).sum()


def attach(x: Tensor, loss: Tensor) -> Tensor:
    """Return x unchanged; its backward pass also sends the gradient of ``loss`` on its way.

    So the loss joins the backward pass of whichever stage holds the layer, under any schedule.
    """
    attached: Tensor = _Attach.apply(x, loss)  # type: ignore[no-untyped-call]
    return attached


def sharpness(probabilities_TN: Tensor) -> Tensor:
    """Return the mean of the largest probability over the second (Skywork-MoE figure 3)."""
    if not len(probabilities_TN) or probabilities_TN.shape[1] < 2:
        return probabilities_TN.new_ones(())
    top_T2 = probabilities_TN.topk(2, dim=-1).values
    return (top_T2[:, 0] / top_T2[:, 1].clamp(min=torch.finfo(top_T2.dtype).tiny)).mean()


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.loss_like = torch.ones_like(loss)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], ctx.loss_like
