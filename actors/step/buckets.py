"""Weights and gradients of a share as tensors in flat buckets.

``moe.planning.layout.buckets`` says which tensor lies where and what of it this replica owns.
Parameters and their gradients are views of the buckets, so nothing is copied on the way, and a
bucket travels as one message.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from moe.nn.decoder import Decoder
from moe.planning.layout.buckets import BucketLayout, Kind, OwnedSlot, Slot, bucket_layouts


class Bucket:
    """The tensors of one bucket: all weights and gradients, and the slice that ``replica`` owns."""

    def __init__(
        self, layout: BucketLayout, parameters: Mapping[str, nn.Parameter], replica: int
    ) -> None:
        self.layout = layout
        like = parameters[layout.slots[0].part.name]
        self.weights = torch.zeros(layout.elements, dtype=like.dtype, device=like.device)
        self.gradients = torch.zeros_like(self.weights)
        self.own = layout.own(replica)
        self.owned = self.weights[self.own]
        self.owned.grad = self.gradients[self.own]
        self._replica = replica
        for slot in layout.slots:
            _move_in(parameters[slot.part.name], self, slot)

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


def buckets_of(decoder: Decoder, replica: int, replicas: int, gang: int) -> tuple[Bucket, ...]:
    """Move what a decoder trains into buckets, cut over ``replicas`` of which it is one."""
    parameters = dict(decoder.named_parameters())
    layouts = bucket_layouts(decoder.config, decoder.share, replicas, gang)
    return tuple(Bucket(layout, parameters, replica) for layout in layouts)


@torch.no_grad()
def _move_in(parameter: nn.Parameter, bucket: Bucket, slot: Slot) -> None:
    """Make a parameter and its gradient views of the buffers."""
    weights = bucket.weights[slot.start : slot.stop].view(parameter.shape)
    weights.copy_(parameter)
    parameter.data = weights
    parameter.grad = bucket.gradients[slot.start : slot.stop].view(parameter.shape)
