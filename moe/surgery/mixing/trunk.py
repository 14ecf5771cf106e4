"""The tensors that all experts share: those of one model, or the mean of several."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.tensors import TensorSlice
from moe.surgery.blocks import spans
from moe.surgery.lineage import finite
from moe.surgery.output import Values


def trunk(models: Sequence[Checkpoint], tensor: TensorSlice, dtype: torch.dtype) -> Values:
    """Return the mean over models of a tensor, block by block; of one model the tensor itself."""
    weights = [finite(model, tensor) for model in models]
    if len(weights) == 1 and weights[0].dtype == dtype:
        blocks = (weights[0][start:stop] for start, stop in spans(weights[0]))
        return Values(blocks, mapped=True)
    return Values(_means(weights, dtype))


def _means(weights: Sequence[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    for start, stop in spans(weights[0]):
        total = sum(
            (weight[start:stop].double() for weight in weights[1:]), weights[0][start:stop].double()
        )
        yield (total / len(weights)).to(dtype)
