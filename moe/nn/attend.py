"""Causal attention by the best of torch's kernels that can compute it.

``scaled_dot_product_attention`` falls back without a word to a kernel that stores a number for
every pair of positions. On a GPU it does so if heads are grouped and flash attention cannot run,
which needs two bytes a number and takes no mask. So

- heads are repeated where flash attention cannot run: the memory-efficient kernel can then;
- the last positions of a longer sequence, and a sliding window, go to flash attention itself, which
  knows both without a mask;
- positions that no query sees are cut off first.

Sequences are padded on the right, where causal attention never looks: padding needs no mask.
On a CPU, torch's flash attention takes all of it: float32, groups, masks.
Documents that share a row are sequences of unlike lengths to flash attention of a GPU, are computed
one by one on a CPU, and take a mask elsewhere.
`docs/reference/attention.md` has the table.

Shapes: B batch, S new positions, P all positions so far, H query heads, K key-value heads, E head
size, T = B * S or B * P.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cuda

from moe.nn.documents import Documents

_EVEN = 8
"""Flash attention itself takes head sizes that are multiples of this."""


def attend(q_BHSE: Tensor, k_BKPE: Tensor, v_BKPE: Tensor, window: int | None) -> Tensor:
    """Return what the last S of P positions see, [B, H, S, E]: no later position, and at most
    ``window`` positions, itself included.
    """
    new, total = q_BHSE.shape[2], k_BKPE.shape[2]
    if window is not None and total > new + window - 1:
        unseen = total - new - window + 1
        k_BKPE, v_BKPE, total = k_BKPE[:, :, unseen:], v_BKPE[:, :, unseen:], new + window - 1
    left = window - 1 if window is not None and total > window else -1
    if left < 0 and new in (1, total):
        return _plain(q_BHSE, k_BKPE, v_BKPE, None, causal=new > 1)
    if _flashes(q_BHSE, k_BKPE, v_BKPE, None) and q_BHSE.shape[3] % _EVEN == 0:
        counts = torch.arange(len(q_BHSE) + 1, dtype=torch.int32, device=q_BHSE.device)
        sizes = (counts * new, counts * total, new, total)
        return _flash(q_BHSE, k_BKPE, v_BKPE, left, sizes)
    band_SP = _band(new, total, left, q_BHSE.device)
    return _plain(q_BHSE, k_BKPE, v_BKPE, band_SP, causal=False)


def attend_documents(
    q_BHSE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, window: int | None, documents: Documents
) -> Tensor:
    """Return what each position sees of its document, [B, H, S, E], as ``attend`` of it alone."""
    if q_BHSE.is_cpu:
        return _one_by_one(q_BHSE, k_BKSE, v_BKSE, window, documents)
    if _flashes(q_BHSE, k_BKSE, v_BKSE, None) and q_BHSE.shape[3] % _EVEN == 0:
        left = -1 if window is None else window - 1
        ends, longest = documents.ends, documents.longest
        return _flash(q_BHSE, k_BKSE, v_BKSE, left, (ends, ends, longest, longest))
    return _plain(q_BHSE, k_BKSE, v_BKSE, documents.seen(window), causal=False)


def _one_by_one(
    q_BHSE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, window: int | None, documents: Documents
) -> Tensor:
    """Attend to each document by itself: no work is done for pairs of documents.

    Rows and documents are split, not sliced: the gradient of a slice is as large as the whole.
    Padding gets zeros.
    """
    rows = []
    by_row = zip(*(torch.split(x, 1) for x in (q_BHSE, k_BKSE, v_BKSE)), strict=True)
    for (q_1HSE, k_1KSE, v_1KSE), sizes in zip(by_row, documents.sizes, strict=True):
        rest = q_BHSE.shape[2] - sum(sizes)
        cut = [*sizes, rest] if rest else [*sizes]
        parts = zip(*(torch.split(x, cut, dim=2) for x in (q_1HSE, k_1KSE, v_1KSE)), strict=True)
        found = [attend(q, k, v, window) for (q, k, v), _ in zip(parts, sizes, strict=False)]
        if rest:
            found.append(q_BHSE.new_zeros(1, q_BHSE.shape[1], rest, q_BHSE.shape[3]))
        rows.append(torch.cat(found, dim=2))
    return torch.cat(rows)


def _plain(
    q_BHSE: Tensor, k_BKPE: Tensor, v_BKPE: Tensor, mask_SP: Tensor | None, causal: bool
) -> Tensor:
    """Let torch choose the kernel, of those that need no matrix of scores."""
    if q_BHSE.device.type != "cpu" and not _flashes(q_BHSE, k_BKPE, v_BKPE, mask_SP):
        k_BKPE, v_BKPE = _repeated(k_BKPE, q_BHSE), _repeated(v_BKPE, q_BHSE)
    return F.scaled_dot_product_attention(
        q_BHSE,
        k_BKPE,
        v_BKPE,
        attn_mask=mask_SP,
        is_causal=causal,
        enable_gqa=q_BHSE.shape[1] != k_BKPE.shape[1],
    )


def _flashes(q_BHSE: Tensor, k_BKPE: Tensor, v_BKPE: Tensor, mask_SP: Tensor | None) -> bool:
    """Tell whether flash attention of a GPU can run."""
    grouped = q_BHSE.shape[1] != k_BKPE.shape[1]
    asked = cuda.SDPAParams(q_BHSE, k_BKPE, v_BKPE, mask_SP, 0.0, False, grouped)
    return cuda.can_use_flash_attention(asked)


def _flash(
    q_BHSE: Tensor,
    k_BKPE: Tensor,
    v_BKPE: Tensor,
    left: int,
    sizes: tuple[Tensor, Tensor, int, int],
) -> Tensor:
    """Return attention to ``left`` positions before each and to itself; to all before for -1.

    ``sizes`` are the ends of the sequences among the queries and among the keys, and the longest of
    each. The last query and the last key of a sequence are one position, as in ``_band``.
    """
    # Importing it imports torch's compiler: seconds that a CPU need not spend.
    from torch.nn.attention.varlen import varlen_attn

    k_BHPE, v_BHPE = _repeated(k_BKPE, q_BHSE), _repeated(v_BKPE, q_BHSE)
    q_THE, k_THE, v_THE = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHSE, k_BHPE, v_BHPE))
    y_THE = varlen_attn(q_THE, k_THE, v_THE, *sizes, window_size=(left, 0))
    assert isinstance(y_THE, Tensor)
    return y_THE.view(len(q_BHSE), -1, *y_THE.shape[1:]).transpose(1, 2)


def _band(new: int, total: int, left: int, device: torch.device) -> Tensor:
    """Return which of ``total`` positions the last ``new`` see: ``left`` before each and itself;
    all before for -1.
    """
    seen = torch.ones(new, total, dtype=torch.bool, device=device).tril(diagonal=total - new)
    return seen if left < 0 else seen.triu(diagonal=total - new - left)


def _repeated(x_BKPE: Tensor, q_BHSE: Tensor) -> Tensor:
    """Return every key-value head once for each query head that uses it."""
    times = q_BHSE.shape[1] // x_BKPE.shape[1]
    return x_BKPE if times == 1 else x_BKPE.repeat_interleave(times, dim=1)
