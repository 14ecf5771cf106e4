"""The choice of the next token from one row of logits.

Temperature divides the logits; the nucleus (Holtzman et al. 2020, section 3.1) keeps the smallest
set of the likeliest tokens whose probability reaches ``top_p``. The draw inverts the cumulative
distribution at one uniform number hashed from (seed, position), so it depends only on these two:
not on the device, the plan or earlier draws.

Shapes: V vocabulary, N nucleus.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe.config.sampling import SampledToken, Sampling
from moe.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Draw:
    sampling: Sampling
    position: int
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    allowed: NDArray[np.int32] | None = None


def sample(logits_RV: Tensor, draws: Sequence[Draw]) -> list[SampledToken]:
    if all(d.sampling.temperature == 0 and d.sampling.logprobs is None for d in draws):
        best = logits_RV.max(dim=1)
        return [SampledToken(token, 0.0) for token in best.indices.tolist()]
    return [
        sample_one(row, d.sampling, d.position) for row, d in zip(logits_RV, draws, strict=True)
    ]


def score(logits_SV: Tensor, tokens_S: Sequence[int], logprobs: int) -> list[SampledToken]:
    found = torch.log_softmax(logits_SV.float(), dim=-1)
    return [
        SampledToken(t, row[t].item(), _likeliest(row, logprobs))
        for row, t in zip(found, tokens_S, strict=True)
    ]


def sample_one(logits_V: Tensor, sampling: Sampling, position: int) -> SampledToken:
    """Return the token at a position, with natural-log probabilities.

    Probabilities are those of the model, before temperature and nucleus, as the OpenAI interface
    reports them. Among equal logits, the lower token number comes first.
    """
    logits_V = logits_V.float()
    logprobs_V = torch.log_softmax(logits_V, dim=-1)
    token = _choose(logits_V, sampling, position)
    logprob = logprobs_V[token].item()
    if logprob != logprob:
        raise CheckpointError(
            f"the logits at position {position} are not numbers; the weights are damaged, "
            "or overflow the type they are computed in"
        )
    return SampledToken(token, logprob, _likeliest(logprobs_V, sampling.logprobs or 0))


def nucleus(probabilities_V: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the tokens [N] of the nucleus, likeliest first, and their probabilities [N].

    The token that crosses ``top_p`` belongs to it, so it is never empty.
    """
    sorted_V, tokens_V = probabilities_V.sort(descending=True, stable=True)
    before_V = sorted_V.cumsum(0) - sorted_V
    kept = max(1, int((before_V < top_p).sum()))
    return tokens_V[:kept], sorted_V[:kept]


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) with 53 random bits, always the same for a seed and a position."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def _choose(logits_V: Tensor, sampling: Sampling, position: int) -> int:
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    shifted_V = logits_V.double() - logits_V.max()
    probabilities_V = torch.softmax(shifted_V / sampling.temperature, dim=-1)
    if sampling.top_p >= 1:
        return _invert(probabilities_V, uniform(sampling.seed, position))
    tokens_N, probabilities_N = nucleus(probabilities_V, sampling.top_p)
    return int(tokens_N[_invert(probabilities_N, uniform(sampling.seed, position))])


def _invert(weights_N: Tensor, at: float) -> int:
    """Return the first index whose cumulative weight exceeds the fraction ``at`` of the total."""
    cumulative_N = weights_N.cumsum(0)
    index = torch.searchsorted(cumulative_N, at * cumulative_N[-1], right=True)
    return min(int(index), int(weights_N.nonzero()[-1]))


def _likeliest(logprobs_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    if count == 0:
        return ()
    sorted_V, tokens_V = logprobs_V.sort(descending=True, stable=True)
    pairs = zip(tokens_V[:count].tolist(), sorted_V[:count].tolist(), strict=True)
    return tuple((int(token), float(logprob)) for token, logprob in pairs)
