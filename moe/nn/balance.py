"""Losses that keep experts evenly loaded, and how they enter the backward pass.

Over T tokens and n experts, p_ij the probability of expert j for token i, f_j its share of the
(token, expert) pairs (Skywork-MoE section 2.2 equation 4; DeepSeekMoE section 3.3, where f carries
the n)::

    skywork:  sum_j (1/n - P_j)^2             P_j = mean_i p_ij
    switch:   n * sum_j f_j * P_j
    device:   sum_d f'_d * P'_d               f'_d = mean of n f_j, P'_d = sum of P_j, j in group d
    z:        mean_i (log sum_j exp z_ij)^2   on the raw logits (ST-MoE equation 5)

The skywork loss is zero at balanced mean probability and contains no counts; the switch loss is the
usual form. A coefficient of one form does not suit the other. All losses are computed per layer:
pooled over layers, two layers collapsed onto different experts would look balanced.

The scope is the set of tokens over which f and P are computed: a micro-batch; each sequence, with
the losses averaged; or the global batch, whose tokens are known only at its end. For the global
batch, f_j and the mean probability m_j are taken from the previous global batch, and P_j from the
micro-batch::

    switch:   n * sum_j f_j * P_j
    skywork:  sum_j 2 (m_j - 1/n) * P_j       the derivative of sum_j (1/n - m_j)^2, m_j = mean P_j

If f and m came from the present batch, the mean over its micro-batches would have exactly the
gradient of the loss of the global batch.

Which tokens are padding and which sets are empty is known on the device alone, so both are masked
and never cut out: the host waits for nothing.

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
    """How G sets of tokens spread over the experts, both [G, N]: the share of (token, expert) pairs
    of each expert, and its mean probability. ``filled`` [G] is False for a set without tokens,
    None if all have some.
    """

    shares: Tensor
    probabilities: Tensor
    filled: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """The router losses of one step.

    ``coefficients`` has the coefficient of the balance loss of each layer; a missing layer has no
    balance loss. ``z`` and ``device`` are coefficients for all layers; ``device_groups`` is the
    number of groups of experts in the device loss. ``before`` is used by the scope of the global
    batch: the spread of the previous global batch by layer, [1, N]; a missing layer uses the
    micro-batch. ``weight`` is the weight of one micro-batch.
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
    """Losses of one layer: ``total`` with coefficients; the others without, None if not used."""

    total: Tensor
    balance: Tensor
    z: Tensor | None
    device: Tensor | None


def losses(
    settings: Balance, layer: int, now: Spread, logits_TN: Tensor, valid_T: Tensor | None = None
) -> Losses:
    """Return the losses of one layer; ``valid_T`` is False for padding, which ``now`` leaves
    out.
    """
    before = settings.before.get(layer) if settings.scope == "global-batch" else None
    even = balance_loss(settings.kind, now, before)
    z = z_loss(logits_TN, valid_T) if settings.z else None
    device = device_loss(settings.device_groups, now, before) if settings.device else None
    total = settings.coefficients.get(layer, 0.0) * even
    if z is not None:
        total = total + settings.z * z
    if device is not None:
        total = total + settings.device * device
    return Losses(total * settings.weight, even, z, device)


def spread(load_GN: Tensor, probability_GN: Tensor, tokens_G: Tensor) -> Spread:
    """Return the spread of the sets from their counts and summed probabilities."""
    probabilities_GN = probability_GN / tokens_G.clamp(min=1)[:, None]
    shares_GN = load_GN / load_GN.sum(dim=1, keepdim=True).clamp(min=1)
    return Spread(shares_GN.to(probabilities_GN.dtype), probabilities_GN, tokens_G > 0)


def balance_loss(kind: BalanceLoss, now: Spread, before: Spread | None = None) -> Tensor:
    """Return the balance loss of one layer, averaged over the sets; 0 without tokens.

    With ``before``, its gradient is that of the previous global batch's loss in this micro-batch.
    """
    mean_GN = now.probabilities
    experts = mean_GN.shape[1]
    if kind == "switch":
        shares_GN = now.shares if before is None else before.shares
        return experts * mean((shares_GN * mean_GN).sum(dim=1), now.filled)
    if before is None:
        return mean((1.0 / experts - mean_GN).square().sum(dim=1), now.filled)
    excess_1N = before.probabilities - 1.0 / experts
    moved_G = (2.0 * excess_1N * mean_GN).sum(dim=1)
    return mean(moved_G - moved_G.detach() + excess_1N.square().sum(), now.filled)


def device_loss(groups: int, now: Spread, before: Spread | None = None) -> Tensor:
    """Return the device-level loss over contiguous groups of experts of nearly equal size."""
    mean_GN = now.probabilities
    shares_GN = (now.shares if before is None else before.shares).expand_as(mean_GN)
    parts = zip(shares_GN.tensor_split(groups, 1), mean_GN.tensor_split(groups, 1), strict=True)
    losses = [share.mean(dim=1) * own.sum(dim=1) for share, own in parts]
    return mean_GN.shape[1] * mean(torch.stack(losses).sum(dim=0), now.filled)


def z_loss(logits_TN: Tensor, valid_T: Tensor | None = None) -> Tensor:
    """Return the mean square of the logarithm of the summed exponentials; 0 without tokens."""
    return mean(logits_TN.logsumexp(dim=-1).square(), valid_T)


def mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """Return the mean of the values marked in ``counted``, None for all; 0 without any.

    Values that are not marked get the gradient 0.
    """
    if counted is None:
        return values.sum() / max(values.numel(), 1)
    return values.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)


def attach(x: Tensor, loss: Tensor) -> Tensor:
    """Return x unchanged; its backward pass also starts the backward pass of ``loss``.

    So the loss takes part in the backward pass of the stage that holds the layer, under any
    schedule.
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
