"""Weights and gradients of a share as tensors in flat buckets.

``moe.planning.layout.buckets`` says which tensor lies where and what of it this replica owns.
Parameters and their gradients are views of the buckets, so nothing is copied on the way, and a
bucket travels as one message. The buckets of one kind are ranges of one *store*, so that all
experts of a layer lie in one piece of memory, which grouped products take as a stack.

Gradients are float32. Weights are float32, or bfloat16 in a bf16 run; the optimiser then updates a
float32 *master* of the slice that this replica owns, so that no small update is rounded away.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moe.checkpoint.memory import zeros
from moe.config.ranges import TensorRange
from moe.nn.decoder import Decoder
from moe.planning.layout.buckets import BucketLayout, Kind, OwnedSlot, Slot, bucket_layouts

ReadMaster = Callable[[TensorRange], Tensor | None]
"""Returns the float32 values of a range, one-dimensional; None where the weights are all there
is.
"""


class Store(NamedTuple):
    """Memory for weights and for their gradients, element by element."""

    weights: Tensor
    gradients: Tensor


class Bucket:
    """The tensors of one bucket: all weights and gradients, and the slice that ``replica`` owns.

    ``owned`` is what the optimiser updates: the master of the slice where weights are narrow, else
    the weights of the slice themselves. A ``blank`` bucket does not take the values of the
    parameters, which have none.
    """

    def __init__(
        self,
        layout: BucketLayout,
        parameters: Mapping[str, nn.Parameter],
        replica: int,
        store: Store,
        blank: bool = False,
    ) -> None:
        self.layout = layout
        self.weights, self.gradients = store
        self.own = layout.own(replica)
        self._replica = replica
        for slot in layout.slots:
            _move_in(parameters[slot.part.name], self, slot, blank)
        self.owned = self.weights[self.own].float()
        self.owned.grad = self.gradients[self.own]

    @property
    def kind(self) -> Kind:
        """What the tensors have in common."""
        return self.layout.kind

    @property
    def slices(self) -> tuple[Tensor, ...]:
        """The weights that each replica owns."""
        return torch.split(self.weights, self.layout.slice_elements)

    def owned_slots(self) -> Iterator[OwnedSlot]:
        """Yield what this replica owns, tensor by tensor, and where it lies in ``owned``."""
        return self.layout.owned(self._replica)

    def restore(self, read: ReadMaster) -> None:
        """Fill the master, if there is one, with the values that the weights were rounded from."""
        for slot in self.owned_slots() if self.kind.narrow else ():
            found = read(slot.range)
            if found is not None:
                self.owned[slot.slice].copy_(found)

    def publish(self) -> None:
        """Round the master, if there is one, to the weights of the slice."""
        if self.kind.narrow:
            self.weights[self.own].copy_(self.owned)


def buckets_of(
    decoder: Decoder, replica: int, replicas: int, gang: int, blank: bool = False
) -> tuple[Bucket, ...]:
    """Move what a decoder trains into buckets, cut over ``replicas`` of which it is one.

    The tensors of a ``blank`` decoder have no values yet.
    """
    parameters = dict(decoder.named_parameters())
    layouts = bucket_layouts(decoder.config, decoder.share, replicas, gang, decoder.narrow)
    return tuple(
        Bucket(layout, parameters, replica, store, blank)
        for _, alike in groupby(layouts, key=lambda layout: layout.kind)
        for layout, store in _stored(list(alike), parameters)
    )


def _stored(
    layouts: Sequence[BucketLayout], parameters: Mapping[str, nn.Parameter]
) -> Iterator[tuple[BucketLayout, Store]]:
    """Yield buckets of one kind, each with its range of one store."""
    like = parameters[layouts[0].slots[0].part.name]
    sizes = [layout.elements for layout in layouts]
    weights = zeros(sum(sizes), like.dtype, like.device)
    gradients = zeros(sum(sizes), torch.float32, like.device)
    ranges = zip(torch.split(weights, sizes), torch.split(gradients, sizes), strict=True)
    for layout, (own, of_gradients) in zip(layouts, ranges, strict=True):
        yield layout, Store(own, of_gradients)


@torch.no_grad()
def _move_in(parameter: nn.Parameter, bucket: Bucket, slot: Slot, blank: bool) -> None:
    """Make a parameter and its gradient views of the buffers."""
    weights = bucket.weights[slot.start : slot.stop].view(parameter.shape)
    if not blank:
        weights.copy_(parameter)
    parameter.data = weights
    parameter.grad_dtype = bucket.gradients.dtype
    parameter.grad = bucket.gradients[slot.start : slot.stop].view(parameter.shape)
