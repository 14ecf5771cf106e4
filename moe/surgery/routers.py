"""The tensors that a dense model does not have: routers, balance biases, gates of shared
experts.
"""

from math import sqrt

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.role import Role
from moe.config.tensors import TensorSlice, layer_tensors
from moe.surgery.blocks import spans
from moe.surgery.options import UpcycleOptions
from moe.surgery.part import Cut
from moe.surgery.seeds import generator


def new_tensor(tensor: TensorSlice, cut: Cut, gate: Tensor, options: UpcycleOptions) -> Tensor:
    """Return the initial value of a new tensor; ``gate`` is the dense gate projection of the layer.

    A balance bias and the gate of a shared expert begin at zero, where they have no preference.
    """
    if tensor.role.part != "router" or options.router == "zero":
        return torch.zeros(tensor.shape)
    if options.router == "centroid":
        return _centroids(cut, gate) * (options.deviation * sqrt(tensor.shape[1]))
    repeats = options.method.repeats
    rows, hidden = tensor.shape[0] // repeats, tensor.shape[1]
    drawn = torch.randn(rows, hidden, generator=generator(options.seed, tensor.name))
    return (drawn * options.deviation).repeat_interleave(repeats, dim=0)


def gate_of(dense: Checkpoint, layer: int) -> Tensor:
    """Return the gate projection of a layer of a dense model, memory-mapped and not read."""
    wanted = Role("gate", layer, cut=0)
    return dense.read(next(t for t in layer_tensors(dense.config, layer) if t.role == wanted))


def _centroids(cut: Cut, gate: Tensor) -> Tensor:
    """Return the mean gate row of each expert's columns, of length one.

    The mean over experts is removed, because a common component does not separate experts.
    """
    owner = torch.full((gate.shape[0],), len(cut.experts))
    for number, part in enumerate(cut.experts):
        assert part.columns is not None
        owner[part.columns] = number
    sums = torch.zeros(len(cut.experts) + 1, gate.shape[1])
    for start, stop in spans(gate):
        sums.index_add_(0, owner[start:stop], gate[start:stop].float())
    means = sums[:-1] / torch.bincount(owner, minlength=len(sums))[:-1, None]
    return torch.nn.functional.normalize(means - means.mean(dim=0), dim=1)
