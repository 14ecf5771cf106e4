"""How alike the weights of the experts of a layer are, read from the files a block at a time.

Shapes: N experts.
"""

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.tensors import TensorSlice, layer_tensors
from moe.nn.similarity import cosines, inner_products
from moe.surgery.blocks import BLOCK_ELEMENTS, spans


def weight_cosines(checkpoint: Checkpoint, layer: int) -> Tensor:
    """Return the cosines of all pairs of experts of a layer, each flattened, [N, N] in float64.

    Memory holds one block of rows of every expert.
    """
    count = checkpoint.config.experts
    products_NN = torch.zeros(count, count, dtype=torch.float64)
    for alike in by_part(checkpoint, layer):
        shape = torch.empty(alike[0].shape, device="meta")
        for start, stop in spans(shape, BLOCK_ELEMENTS // count):
            rows = [checkpoint.read(tensor.span(0, start, stop)) for tensor in alike]
            products_NN += inner_products(rows)
    return cosines(products_NN)


def by_part(checkpoint: Checkpoint, layer: int) -> list[list[TensorSlice]]:
    """Return the gates, the ups and the downs of the experts of a layer, in their order."""
    found: dict[str, list[TensorSlice]] = {}
    for tensor in layer_tensors(checkpoint.config, layer):
        if tensor.role.expert is not None:
            found.setdefault(tensor.role.part, []).append(tensor)
    return list(found.values())
