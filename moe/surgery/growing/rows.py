"""Routers of the larger model: rows of the parents, with noise or apart."""

import torch
from torch import Tensor

from moe.surgery.growing.options import Growth
from moe.surgery.growing.parents import Parents, copy_numbers
from moe.surgery.seeds import generator


def router_rows(
    weight: Tensor, parents: Parents, grown: Growth, name: str, apart: Tensor | None
) -> Tensor:
    """Return the router [experts, hidden] in float32; ``apart`` has a vector for each copy.

    Only copies get noise, of the deviation of the router times that of the options; where the
    function is kept, none do.
    """
    rows, numbers = weight.float()[list(parents)], torch.tensor(copy_numbers(parents))
    if apart is not None:
        return rows + apart[numbers]
    if grown.options.keep == "function" or grown.noise == 0:
        return rows
    spread = grown.noise * weight.float().std(correction=0)
    noise = torch.randn(rows.shape, generator=generator(grown.options.seed, name))
    return rows + spread * noise * (numbers > 0)[:, None]
