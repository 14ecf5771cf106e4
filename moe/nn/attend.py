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
`docs/reference/attention.md` has the table.

Shapes: B batch, S new positions, P all positions so far, H query heads, K key-value heads, E head
size, T = B * S or B * P.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cuda

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
        return _flash(q_BHSE, k_BKPE, v_BKPE, left)
    band_SP = _band(new, total, left, q_BHSE.device)
    return _plain(q_BHSE, k_BKPE, v_BKPE, band_SP, causal=False)


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


def _flash(q_BHSE: Tensor, k_BKPE: Tensor, v_BKPE: Tensor, left: int) -> Tensor:
    """Return attention to ``left`` positions before each and to itself; to all before for -1.

    The last query and the last key are one position, as in ``_band``.
    """
    # Importing it imports torch's compiler: seconds that a CPU need not spend.
    from torch.nn.attention.varlen import varlen_attn

    k_BHPE, v_BHPE = _repeated(k_BKPE, q_BHSE), _repeated(v_BKPE, q_BHSE)
    batch, _, new, _ = q_BHSE.shape
    total = k_BHPE.shape[2]
    q_THE, k_THE, v_THE = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHSE, k_BHPE, v_BHPE))
    counts = torch.arange(batch + 1, dtype=torch.int32, device=q_BHSE.device)
    y_THE = varlen_attn(
        q_THE, k_THE, v_THE, counts * new, counts * total, new, total, window_size=(left, 0)
    )
    assert isinstance(y_THE, Tensor)
    return y_THE.view(batch, new, *y_THE.shape[1:]).transpose(1, 2)


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
