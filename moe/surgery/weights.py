"""The expected sum of routing weights of an untrained gate, from which methods compute their gain.

A method scales ``gain * sum_i w_i FFN_i(x)`` to the size of the dense feed-forward, so it needs the
sum s of a token's weights, for N experts of which k are chosen:

- renormalised weights, or a softmax over the chosen experts: s = 1 for any gate;
- softmax over all N, not renormalised: s = k / N where logits are near zero (He et al. 2024 suppose
  it too: their factor is N G / k);
- sigmoids, not renormalised: s = k / 2 where logits are near zero;
- with ``gate_norm`` logits are *not* near zero, their deviation is lambda: s is measured, on the
  router itself with normal logits.

The first case is exact for every token, the others only for gates of zeros.
"""

from dataclasses import replace

import torch

from moe.config.model import MoeConfig
from moe.nn.router import choose
from moe.surgery.seeds import generator

_MEASURED_LOGITS = 2**18


def sums_to_one(moe: MoeConfig) -> bool:
    """Return whether the routing weights of every token sum to one."""
    all_chosen = moe.top_k == moe.experts or moe.softmax_after
    return moe.renormalise or (moe.score == "softmax" and all_chosen)


def weight_sum(moe: MoeConfig, repeats: int = 1) -> float:
    """Return the mean sum of a token's weights, before ``scale``.

    ``repeats`` consecutive experts share one logit; k is a multiple of ``repeats``.
    """
    if sums_to_one(moe):
        return 1.0
    if moe.gate_norm is not None:
        return _measured(moe, repeats)
    return moe.top_k / (moe.experts if moe.score == "softmax" else 2)


def _measured(moe: MoeConfig, repeats: int) -> float:
    rows = moe.experts // repeats
    source = generator(0, "weight sum")
    logits = torch.randn(max(64, _MEASURED_LOGITS // moe.experts), rows, generator=source)
    plain = replace(moe, scale=1.0)
    weights = choose(logits.repeat_interleave(repeats, dim=1), plain).weights
    return weights.double().sum(dim=1).mean().item()
