"""Cross entropy of the next token, with the head or without.

With the head, logits exist for only some rows at a time: their loss and gradients are computed
together and the logits are freed, so memory does not grow with tokens times vocabulary.

If a gang splits the vocabulary, every rank computes the logits of its own rows of the head, and the
ranks exchange two numbers per token: the logarithm of the rank's summed exponentials, and the
label's logit if the rank holds the label, else 0. Over ranks r::

    log sum_v exp z_v = log sum_r exp (log sum_(v of r) exp z_v)

Shapes: B batch, S sequence, T tokens = B * S, R tokens at a time, D hidden, V vocabulary held, G
ranks.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe.nn.product import input_product, product, weight_product
from moe.nn.vocabulary import Rows

IGNORED = -100
LOGITS_AT_ONCE = 2**25
"""Number of logits held at a time; 128 MB in float32."""


def cross_entropy_sum(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Return the summed loss in nats, in float32; labels of -100 are ignored."""
    return F.cross_entropy(
        logits_BSV.flatten(0, 1).float(),
        labels_BS.flatten().long(),
        ignore_index=IGNORED,
        reduction="sum",
    )


def cross_entropies(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Return the loss of each label in nats [B, S], in float32; 0 for labels of -100."""
    return F.cross_entropy(
        logits_BSV.flatten(0, 1).float(),
        labels_BS.flatten().long(),
        ignore_index=IGNORED,
        reduction="none",
    ).view_as(labels_BS)


def head_loss(
    hidden_BSD: Tensor,
    head_VD: Tensor,
    labels_BS: Tensor,
    scale: float,
    rows: Rows | None = None,
) -> Tensor:
    """Return ``scale`` times the summed loss of ``hidden @ head.T``, in float32; one backward pass.

    Products are in the type of ``hidden``; the gradients of the head's rows add up in float32.
    ``scale`` is an argument because the gradients are computed here: a loss that is multiplied
    afterwards has none, and its backward pass raises RuntimeError. ``rows`` are the rows that the
    head holds of a split vocabulary; every rank gets the same loss.
    """
    if rows is not None:
        (hidden_BSD,) = rows.exchange.enter(hidden_BSD)
    loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden_BSD.flatten(0, 1),
        head_VD,
        labels_BS.flatten().long(),
        _Terms(scale, rows),
    )
    return loss


def rows_at_once(vocabulary: int) -> int:
    """Return the number of tokens whose logits exist at the same time."""
    return max(1, LOGITS_AT_ONCE // vocabulary)


class _Terms(NamedTuple):
    """Arguments of the loss: its factor, the rows of a split head."""

    scale: float
    rows: Rows | None


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head_VD: Tensor,
        labels_T: Tensor,
        terms: _Terms,
    ) -> Tensor:
        (scale, rows), dtype = terms, hidden_TD.dtype
        exact = torch.promote_types(dtype, torch.float32)
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        head = head_VD.to(dtype)
        loss = hidden_TD.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden_TD) if wants_hidden else None
        head_grad = None
        if wants_head and not len(labels_T):
            head_grad = torch.zeros_like(head_VD, dtype=exact)
        step = rows_at_once(len(head_VD) if rows is None else rows.total)
        for start in range(0, len(labels_T), step):
            hidden_RD = hidden_TD[start : start + step]
            logits_RV = product(hidden_RD, head).float()
            loss += _loss_and_gradient(logits_RV, labels_T[start : start + step], rows)
            errors_RV = logits_RV.mul_(scale).to(dtype)
            if hidden_grad is not None:
                hidden_grad[start : start + step] = input_product(errors_RV, head)
            if wants_head:
                part = weight_product(errors_RV, hidden_RD)
                head_grad = part.to(exact) if head_grad is None else head_grad.add_(part)
        ctx.gradients = hidden_grad, head_grad
        return loss * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the loss of a head has one backward pass; compute it again")
        _check_factor(grads[0])
        found, ctx.gradients = ctx.gradients, None  # The caller keeps them without a copy.
        return (*found, None, None)


def _check_factor(factor: Tensor) -> None:
    """Refuse a factor of the loss other than 1, on the device: the host does not wait for it."""
    torch._assert_async(factor == 1.0, "multiply the scale of head_loss, not the loss it returns")


def _loss_and_gradient(logits_RV: Tensor, labels_R: Tensor, rows: Rows | None) -> Tensor:
    """Return the summed loss; overwrite the logits with its gradient, softmax minus one-hot."""
    counted_R1 = (labels_R != IGNORED)[:, None]
    labels_R1 = torch.where(counted_R1, labels_R[:, None], 0)
    norm_R1 = logits_RV.logsumexp(dim=1, keepdim=True)
    one_R1 = torch.ones_like(norm_R1)
    if rows is None:
        chosen_R1 = logits_RV.gather(1, labels_R1)
    else:
        labels_R1, elsewhere_R1 = rows.local(labels_R1)
        one_R1.masked_fill_(elsewhere_R1, 0.0)
        chosen_R1 = logits_RV.gather(1, labels_R1).masked_fill(elsewhere_R1, 0.0)
        norm_R1, chosen_R1 = _of_all_rows(norm_R1, chosen_R1, rows)
    loss = (norm_R1 - chosen_R1).masked_fill(~counted_R1, 0.0).sum()
    logits_RV.sub_(norm_R1).exp_()
    logits_RV.scatter_add_(1, labels_R1, one_R1.neg_())
    logits_RV.masked_fill_(~counted_R1, 0.0)
    return loss


def _of_all_rows(norm_R1: Tensor, chosen_R1: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return norm and label's logit over the full vocabulary, the same bits on every rank."""
    parts_GR2 = rows.exchange.gather(torch.cat((norm_R1, chosen_R1), dim=1))
    return parts_GR2[..., :1].logsumexp(dim=0), parts_GR2[..., 1:].sum(dim=0)
