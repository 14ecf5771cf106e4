"""Losses that keep experts evenly loaded, and their way into the backward pass.

Over T tokens and n experts, p_ij the probability of expert j for token i, f_j its share of the
assignments (Skywork-MoE section 2.2 equation 4; DeepSeekMoE section 3.3, where f carries the n)::

    skywork:  sum_j (1/n - P_j)^2             P_j = mean_i p_ij
    switch:   n * sum_j f_j * P_j
    device:   sum_d f'_d * P'_d               f'_d = mean of n f_j, P'_d = sum of P_j, j in group d
    z:        mean_i (log sum_j exp z_ij)^2   on the raw logits (ST-MoE equation 5)

The first vanishes at balanced mean probability and holds no counts; the second is the usual form.
Coefficients are not transferable between them. All are taken per layer: pooled over layers, two
layers collapsed onto different experts would look balanced.

The scope says over which tokens f and P are taken: those of a micro-batch; those of each sequence,
the losses averaged; or those of the global batch, which are only known when it is over. There f_j
and m_j, the mean probability, are those of the whole last batch, P_j those of the micro-batch::

    switch:   n * sum_j f_j * P_j
    skywork:  sum_j 2 (m_j - 1/n) * P_j       the derivative of sum_j (1/n - m_j)^2, m_j = mean P_j

Were f and m those of this batch, the mean over its micro-batches would have exactly the gradient of
the loss pooled over all of it.

Shapes: T tokens, N experts, G sets of tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

BalanceLoss = Literal["skywork", "switch"]
BalanceScope = Literal["micro-batch", "sequence", "global-batch"]


class Spread(NamedTuple):
    """How sets of tokens spread over the experts, both [G, N]: the share of assignments that each
    expert got, and its mean probability. No sets where there are no tokens.
    """

    shares: Tensor
    probabilities: Tensor


@dataclass(frozen=True, slots=True)
class Balance:
    """The losses on routers in one step.

    ``coefficients`` are those of the balance loss by layer; a layer not named gets none. ``z`` and
    ``device`` are coefficients for all layers, ``device_groups`` how many groups of experts the
    device loss counts. ``before`` tells the scope of the global batch how the last one spread, by
    layer, [1, N]; a layer not named takes the micro-batch. ``weight`` is that of one micro-batch.
    """

    kind: BalanceLoss = "skywork"
    scope: BalanceScope = "micro-batch"
    coefficients: Mapping[int, float] = field(default_factory=dict)
    z: float = 0.0
    device: float = 0.0
    device_groups: int = 1
    before: Mapping[int, Spread] = field(default_factory=dict)
    weight: float = 1.0


NO_LOSS = Balance()


class Losses(NamedTuple):
    """Losses of one layer: ``total`` with coefficients; the others without, None if not asked."""

    total: Tensor
    balance: Tensor
    z: Tensor | None
    device: Tensor | None


def losses(settings: Balance, layer: int, now: Spread, logits_TN: Tensor) -> Losses:
    """Return the losses of one layer; padding is neither in the spread nor in the logits."""
    before = settings.before.get(layer) if settings.scope == "global-batch" else None
    even = balance_loss(settings.kind, now, before)
    z = z_loss(logits_TN) if settings.z else None
    device = device_loss(settings.device_groups, now, before) if settings.device else None
    total = settings.coefficients.get(layer, 0.0) * even
    if z is not None:
        total = total + settings.z * z
    if device is not None:
        total = total + settings.device * device
    return Losses(total * settings.weight, even, z, device)


def spread(load_GN: Tensor, probability_GN: Tensor, tokens_G: Tensor) -> Spread:
    """Return the spread of sets by their counts and summed probabilities, empty sets left out."""
    some_G = tokens_G > 0
    load_GN, probability_GN, tokens_G = load_GN[some_G], probability_GN[some_G], tokens_G[some_G]
    probabilities_GN = probability_GN / tokens_G[:, None]
    shares_GN = load_GN / load_GN.sum(dim=1, keepdim=True).clamp(min=1)
    return Spread(shares_GN.to(probabilities_GN.dtype), probabilities_GN)


def balance_loss(kind: BalanceLoss, now: Spread, before: Spread | None = None) -> Tensor:
    """Return the balance loss of one layer, averaged over the sets; no tokens, no loss.

    With ``before`` it is that of the last global batch, as far as this micro-batch moves it.
    """
    mean_GN = now.probabilities
    if not len(mean_GN):
        return mean_GN.sum()
    experts = mean_GN.shape[1]
    if kind == "switch":
        shares_GN = now.shares if before is None else before.shares
        return experts * (shares_GN * mean_GN).sum(dim=1).mean()
    if before is None:
        return (1.0 / experts - mean_GN).square().sum(dim=1).mean()
    excess_1N = before.probabilities - 1.0 / experts
    moved = (2.0 * excess_1N * mean_GN).sum(dim=1).mean()
    return moved - moved.detach() + excess_1N.square().sum()


def device_loss(groups: int, now: Spread, before: Spread | None = None) -> Tensor:
    """Return the device-level loss over contiguous groups of experts as even as can be."""
    mean_GN = now.probabilities
    if not len(mean_GN):
        return mean_GN.sum()
    shares_GN = (now.shares if before is None else before.shares).expand_as(mean_GN)
    parts = zip(shares_GN.tensor_split(groups, 1), mean_GN.tensor_split(groups, 1), strict=True)
    losses = [share.mean(dim=1) * mean.sum(dim=1) for share, mean in parts]
    return mean_GN.shape[1] * torch.stack(losses).sum(dim=0).mean()


def z_loss(logits_TN: Tensor) -> Tensor:
    """Return the mean square of the logarithm of the summed exponentials; no tokens, no loss."""
    squares_T = logits_TN.logsumexp(dim=-1).square()
    return squares_T.mean() if len(squares_T) else squares_T.sum()


def attach(x: Tensor, loss: Tensor) -> Tensor:
    """Return x unchanged; its backward pass also sends the gradient of ``loss`` on its way.

    So the loss joins the backward pass of whichever stage holds the layer, under any schedule.
    """
    attached: Tensor = _Attach.apply(x, loss)  # type: ignore[no-untyped-call]
    return attached


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.loss_like = torch.ones_like(loss)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], ctx.loss_like
