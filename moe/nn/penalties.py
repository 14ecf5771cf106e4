"""Changes to one row of logits before a token is chosen.

In this order: the repetition penalty (Keskar et al. 2019, section 4.1) over prompt and answer; the
frequency and presence penalties of the OpenAI interface over the answer; the bias of single tokens;
tokens that a grammar does not allow; stop tokens in an answer that is too short.

Shapes: V vocabulary, U tokens that differ.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe.nn.draw import Draw


def adjusted(logits_V: Tensor, draw: Draw) -> Tensor:
    """Return float32 logits with penalties and bias; minus infinity where a token is forbidden.

    A stop token that is all a grammar allows stays allowed, however short the answer is.
    """
    logits_V = logits_V.float().clone()
    _penalise(logits_V, draw)
    for token, bias in draw.sampling.logit_bias:
        logits_V[token] += bias
    if draw.allowed is not None:
        logits_V[~_bits(draw.allowed, logits_V)] = -math.inf
    return _long_enough(logits_V, draw)


def _penalise(logits_V: Tensor, draw: Draw) -> None:
    sampling = draw.sampling
    if sampling.repetition_penalty != 1:
        seen_U, _ = _counted((*draw.prompt, *draw.generated), logits_V)
        _repel(logits_V, seen_U, sampling.repetition_penalty)
    if sampling.frequency_penalty or sampling.presence_penalty:
        seen_U, counts_U = _counted(draw.generated, logits_V)
        logits_V[seen_U] -= sampling.frequency_penalty * counts_U + sampling.presence_penalty


def _repel(logits_V: Tensor, seen_U: Tensor, penalty: float) -> None:
    values_U = logits_V[seen_U]
    logits_V[seen_U] = torch.where(values_U < 0, values_U * penalty, values_U / penalty)


def _counted(tokens: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens that occur and how often each does."""
    found = torch.tensor(tuple(tokens), dtype=torch.int64, device=like.device)
    counts_V = torch.bincount(found, minlength=len(like))
    seen_U = counts_V.nonzero().flatten()
    return seen_U, counts_V[seen_U]


def _bits(allowed: NDArray[np.int32], like_V: Tensor) -> Tensor:
    """Return a bit mask as booleans; tokens beyond the mask are not allowed."""
    words = np.ascontiguousarray(allowed, dtype="<i4")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    mask = np.zeros(len(like_V), dtype=np.bool_)
    mask[: len(bits)] = bits[: len(mask)]
    return torch.from_numpy(mask).to(like_V.device)


def _long_enough(logits_V: Tensor, draw: Draw) -> Tensor:
    sampling = draw.sampling
    if len(draw.generated) >= sampling.min_tokens or not sampling.stop_tokens:
        return logits_V
    longer_V = logits_V.clone()
    longer_V[list(sampling.stop_tokens)] = -math.inf
    return logits_V if longer_V.max() == -math.inf else longer_V
