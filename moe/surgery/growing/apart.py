"""Router rows whose copies take different tokens, so that top-k and, nearly, the function stay.

One vector is added to the rows of all first copies, another to those of all second copies, and so
on. For a token x they add numbers s_c, the same for every expert. If the largest exceeds the
second by more than the logits of the token's k experts spread, then its k best experts are the same
as before, each in its copy c with the largest s_c; a softmax over them does not see what all of
them have in common. Tokens near a boundary between two copies take other experts than before.

The vectors are orthogonal to the mean input of the router, or nearly all tokens could fall to one
copy, and as long as 95 % of the calibration tokens need.

Shapes: T tokens, D hidden, C copies, K experts per token, N experts.
"""

import torch
from torch import Tensor

from moe.surgery.look.routed import Routed
from moe.surgery.seeds import generator

KEPT = 0.95
"""Share of the calibration tokens that keep their experts."""

_LEAST = 1.0
"""The least difference of logits between two copies that most tokens have."""


def directions(found: Routed, copies: int, seed: int) -> Tensor:
    """Return the vector of each copy, [C, D], with mean zero."""
    x_TD = found.inputs.float()
    drawn_CD = torch.randn(copies, x_TD.shape[1], generator=generator(seed, "apart", found.layer))
    mean_D = torch.nn.functional.normalize(x_TD.mean(dim=0), dim=0)
    drawn_CD -= (drawn_CD @ mean_D)[:, None] * mean_D
    drawn_CD -= drawn_CD.mean(dim=0)
    top_T2 = (x_TD @ drawn_CD.T).topk(2, dim=1).values
    logits_TK = found.routing.logits.float().gather(1, found.routing.experts)
    spread_T = (logits_TK.max(dim=1).values - logits_TK.min(dim=1).values).clamp(min=_LEAST)
    least = torch.finfo(torch.float32).tiny
    needed_T = spread_T / (top_T2[:, 0] - top_T2[:, 1]).clamp(min=least)
    return drawn_CD * torch.quantile(needed_T, KEPT)
