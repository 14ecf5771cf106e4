"""Attention of new rows over keys and values in blocks, which are read where they lie.

Each run of blocks is one call of torch's flash attention for CPUs, which also gives the logarithm
of the sum of the exponents. Where the positions of a sequence lie in several runs, the parts are
weighed by it (Dao et al. 2022, section 3.1; here over runs in place of tiles)::

    part_r = softmax(q K_r^T) V_r,   l_r = log sum exp(q K_r^T)
    result = sum_r exp(l_r - l) part_r,   l = log sum_r exp(l_r)

A pass writes its keys and values before anything is read, so a sequence may read what another one
of the same pass wrote: prompts that begin alike and come together are computed once.

On a GPU, and for prompts longer than a sliding window, keys and values are gathered and go through
``moe.nn.attend``.

Shapes: T rows, S rows of a sequence, P positions, H query heads, K key-value heads, G query heads
for each of these, E head size.
"""

import torch
from torch import Tensor

from moe.nn.attend import attend
from moe.nn.inference.rows import Rows, Segment
from moe.nn.inference.store import LayerStore

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def attend_rows(q_THE: Tensor, rows: Rows, store: LayerStore, window: int | None) -> Tensor:
    """Return what every row sees of its sequence up to itself, at most ``window`` positions,
    [T, H, E].

    Keys and values of the rows are in the store already.
    """
    out_THE = torch.empty_like(q_THE)
    q_THE = q_THE.to(store.keys.dtype)
    for segment in rows.segments:
        q_SHE = q_THE[segment.start : segment.stop]
        if not q_THE.is_cpu or (window is not None and segment.count > 1 and segment.end > window):
            found = _gathered(q_SHE, segment, store, window)
        elif segment.count == 1:
            found = _last(q_SHE, segment, store, window)
        else:
            found = _part_of_prompt(q_SHE, segment, store)
        out_THE[segment.start : segment.stop] = found
    return out_THE


def _last(q_1HE: Tensor, segment: Segment, store: LayerStore, window: int | None) -> Tensor:
    """Return attention of one row; query heads of one key-value head are rows of one product."""
    first = 0 if window is None else max(0, segment.end - window)
    heads = store.keys.shape[1]
    q_1KGE = q_1HE.view(1, heads, -1, q_1HE.shape[-1])
    parts = [_over(q_1KGE, *store.run(*run)) for run in segment.runs(first, segment.end)]
    return _joined(parts).reshape(q_1HE.shape)


def _part_of_prompt(q_SHE: Tensor, segment: Segment, store: LayerStore) -> Tensor:
    """Return attention of several rows: to each other, and to all positions before them."""
    q_1HSE = q_SHE.transpose(0, 1)[None]
    own = segment.runs(segment.position, segment.end)
    before = segment.runs(0, segment.position)
    if len(own) == 1:
        parts = [_over(q_1HSE, *store.run(*own[0]), causal=True)]
    else:
        places = torch.tensor(tuple(segment.places(segment.position, segment.end)))
        parts = [_over(q_1HSE, *store.at(places), causal=True)]
    parts += [_over(q_1HSE, *store.run(*run)) for run in before]
    return _joined(parts)[0].transpose(0, 1)


def _over(q: Tensor, k_PKE: Tensor, v_PKE: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
    """Return attention over some positions, and the logarithm of the sum of its exponents."""
    k_1KPE, v_1KPE = (x.transpose(0, 1)[None] for x in (k_PKE, v_PKE))
    found, logsum = _flash(q, k_1KPE, v_1KPE, 0.0, causal)
    return found, logsum


def _joined(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the attention over all runs from that over each."""
    if len(parts) == 1:
        return parts[0][0]
    logsums_R = torch.stack([logsum for _, logsum in parts])
    weights_R = torch.softmax(logsums_R, dim=0)[..., None]
    stacked_R = torch.stack([part for part, _ in parts])
    return (stacked_R * weights_R).sum(dim=0)


def _gathered(q_SHE: Tensor, segment: Segment, store: LayerStore, window: int | None) -> Tensor:
    """Return attention over copies of the keys and values that the rows may see."""
    first = 0 if window is None else max(0, segment.position - window + 1)
    places = torch.tensor(tuple(segment.places(first, segment.end)), device=q_SHE.device)
    k_PKE, v_PKE = store.at(places)
    q, k, v = (x.transpose(0, 1)[None] for x in (q_SHE, k_PKE, v_PKE))
    return attend(q, k, v, window)[0].transpose(0, 1)
