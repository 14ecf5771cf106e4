"""Cross entropy of the next token, with the head or without.

With the head, logits exist for some rows at a time: their loss and their gradients are computed
together and the logits are dropped, so that memory does not grow with tokens times vocabulary.

Shapes: B batch, S sequence, T tokens = B * S, R rows at a time, D hidden, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe.nn.product import product

IGNORED = -100
LOGITS_AT_ONCE = 2**25
"""Logits held at a time; 128 MB in float32."""


def cross_entropy_sum(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Return the summed loss in nats, in float32; labels of -100 do not count."""
    return F.cross_entropy(
        logits_BSV.flatten(0, 1).float(),
        labels_BS.flatten().long(),
        ignore_index=IGNORED,
        reduction="sum",
    )


def head_loss(hidden_BSD: Tensor, head_VD: Tensor, labels_BS: Tensor, scale: float) -> Tensor:
    """Return ``scale`` times the summed loss of ``hidden @ head.T``, in float32; one backward pass.

    The scale is given here because the gradients are computed here.
    """
    device = hidden_BSD.device.type
    dtype = hidden_BSD.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden_BSD.flatten(0, 1), head_VD, labels_BS.flatten().long(), scale, dtype
        )
    return loss


def rows_at_once(vocabulary: int) -> int:
    """Return for how many tokens logits exist at the same time."""
    return max(1, LOGITS_AT_ONCE // vocabulary)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head_VD: Tensor,
        labels_T: Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        wants_gradients = any(ctx.needs_input_grad)
        head = head_VD.to(dtype)
        loss = hidden_TD.new_zeros((), dtype=torch.float32)
        hidden_grads, head_grad = [], None
        rows = rows_at_once(len(head_VD))
        for start in range(0, len(labels_T), rows):
            hidden_RD = hidden_TD[start : start + rows].to(dtype)
            logits_RV = product(hidden_RD, head).float()
            loss += _loss_and_gradient(logits_RV, labels_T[start : start + rows])
            if wants_gradients:
                errors_RV = logits_RV.mul_(scale).to(dtype)
                hidden_grads.append(product(errors_RV, head.t()))
                part = product(errors_RV.t(), hidden_RD.t()).to(head_VD.dtype)
                head_grad = part if head_grad is None else head_grad.add_(part)
        if wants_gradients:
            ctx.gradients = torch.cat(hidden_grads).to(hidden_TD.dtype), head_grad
        return loss * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad_TD, head_grad_VD = ctx.gradients
        del ctx.gradients  # the caller keeps them without a copy
        factor = grads[0].item()
        if factor != 1.0:
            hidden_grad_TD, head_grad_VD = hidden_grad_TD * factor, head_grad_VD * factor
        return hidden_grad_TD, head_grad_VD, None, None, None


def _loss_and_gradient(logits_RV: Tensor, labels_R: Tensor) -> Tensor:
    """Return the summed loss; leave its gradient, softmax less one-hot, in place of the logits."""
    counted_R1 = (labels_R != IGNORED)[:, None]
    labels_R1 = torch.where(counted_R1, labels_R[:, None], 0)
    norm_R1 = logits_RV.logsumexp(dim=1, keepdim=True)
    loss = ((norm_R1 - logits_RV.gather(1, labels_R1)) * counted_R1).sum()
    logits_RV.sub_(norm_R1).exp_()
    logits_RV.scatter_add_(1, labels_R1, torch.full_like(norm_R1, -1.0))
    logits_RV.mul_(counted_R1)
    return loss
