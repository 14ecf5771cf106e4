"""Routes segments of tokens, for experts that are merged (Lory, arXiv 2405.03133, section 3).

A segment is T tokens of a sequence that follow each other, from its first token on; the last one
may be shorter. With n experts, h_t the hidden state of token t and W_i the weights of expert i::

    z_t = R h_t                           the gate of each token
    s_k = softmax(mean of z_t over t in segment k)
    e_k = s_(k-1)                         k > 1
    e_1 = 1 / n                           ``even``: nothing is known before the first segment
        = s_1, without a gradient         ``own``, as in the paper
    y_t = FFN(h_t; sum_i e_ki W_i)        t in segment k; each of gate, up and down is summed so

The gate is linear, so the mean of its logits is what it gives for the mean hidden state, of which
the paper speaks. A server thus keeps n numbers of a position in place of a hidden state.

With ``even`` no position depends on a later one. With ``own`` the positions of the first segment
depend on all of its tokens; that the gate is not trained by it keeps it from learning to tell them.

Generation routes once (section 3.3): the weights of all tokens after a prompt come from the mean
over the prompt. The tokens of the prompt are routed by their segments, as in training.

Shapes: B batch, S sequence, D hidden, N experts, G segments, T tokens of a segment.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe.config.model import FirstSegment, MoeConfig


class SegmentRouter(nn.Module):
    """The gate of one layer: a linear map without bias, in float32 in any precision."""

    def __init__(self, hidden_size: int, config: MoeConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.experts, hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every token; the last dimension is hidden, then experts."""
        return F.linear(x.float(), self.weight.float())


def by_segments(
    logits_BSN: Tensor, length: int, first: FirstSegment, valid_BS: Tensor | None = None
) -> Tensor:
    """Return the weights of the experts in each segment, [B, G, N]; padding does not count.

    ``length`` is that of a segment, in tokens.
    """
    means_BGN = _means(logits_BSN, length, valid_BS)
    scores_BGN = means_BGN.softmax(dim=-1)
    own_B1N = scores_BGN[:, :1].detach()
    first_B1N = own_B1N if first == "own" else even(own_B1N)
    return torch.cat((first_B1N, scores_BGN[:, :-1]), dim=1)


def by_prompt(logits_BSN: Tensor) -> Tensor:
    """Return the weights of the experts for all tokens after a prompt, [B, N]."""
    return logits_BSN.mean(dim=1).softmax(dim=-1)


def even(like: Tensor) -> Tensor:
    """Return equal weights of all experts, the last dimension."""
    return torch.full_like(like, 1.0 / like.shape[-1])


def _means(logits_BSN: Tensor, length: int, valid_BS: Tensor | None) -> Tensor:
    """Return the mean logits of each segment, [B, G, N]; 0 for a segment of padding alone."""
    batch, tokens, experts = logits_BSN.shape
    if valid_BS is None:
        valid_BS = torch.ones(batch, tokens, dtype=torch.bool, device=logits_BSN.device)
    short = -tokens % length
    counted_BGT = F.pad(valid_BS, (0, short)).view(batch, -1, length)
    logits_BGTN = F.pad(logits_BSN, (0, 0, 0, short)).view(batch, -1, length, experts)
    sums_BGN = logits_BGTN.masked_fill(~counted_BGT[..., None], 0.0).sum(dim=2)
    return sums_BGN / counted_BGT.sum(dim=2).clamp(min=1)[..., None]
