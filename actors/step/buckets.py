"""Weights and gradients of a share in flat buffers, each cut evenly over the replicas (ZeRO-1).

A replica owns an even slice of every bucket: it alone has the optimiser's states there and updates
the weights, which then go to the other replicas. Parameters and their gradients are views of the
buffers, so nothing is copied on the way, and a bucket travels as one message.

What must stay the same to the bit on several ranks lies in buckets that are alike on all of them,
so that every sum over replicas is taken in one order: tensors that each member of a gang holds
whole, routers above all, are apart from those that are split; and a tied embedding, which the first
and the last stage hold, has a bucket of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moe.config.tensors import EMBEDDING, HEAD, TensorSlice, answers_for, held_by
from moe.nn.decoder import Decoder

BUCKET_ELEMENTS = 2**24
"""A bucket of several tensors holds at most so many numbers; 64 MB."""

_ALIGNED = 16
"""Slices begin at multiples of this many numbers, as vector instructions like it."""


@dataclass(frozen=True, slots=True)
class Owners:
    """Over how many replicas buckets are cut, which of them this is, and the size of its gang."""

    replica: int = 0
    replicas: int = 1
    gang: int = 1


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one tensor in a bucket."""

    part: TensorSlice
    start: int
    stop: int


class Kind(NamedTuple):
    """What the tensors of a bucket have in common.

    ``layer`` is the layer they belong to, None for vectors of all layers and for the ends of the
    model. ``common`` says that every member of the gang holds them whole, ``decays`` that weight
    decay applies, ``counted`` that this rank counts them in the gradient norm, ``end`` is the name
    of an embedding or head.
    """

    layer: int | None
    common: bool
    decays: bool
    counted: bool
    end: str


class Bucket:
    """Some tensors of a share, one after the other in flat buffers."""

    def __init__(
        self,
        kind: Kind,
        parts: Sequence[TensorSlice],
        parameters: Mapping[str, nn.Parameter],
        owners: Owners,
    ) -> None:
        self.kind = kind
        self.slots = tuple(_slots(parts))
        unit = owners.replicas * _ALIGNED
        size = -(-self.slots[-1].stop // unit) * unit
        like = parameters[parts[0].name]
        self.weights = torch.zeros(size, dtype=like.dtype, device=like.device)
        self.gradients = torch.zeros_like(self.weights)
        share = size // owners.replicas
        self.own = slice(owners.replica * share, (owners.replica + 1) * share)
        self.owned = self.weights[self.own]
        self.owned.grad = self.gradients[self.own]
        for slot in self.slots:
            _move_in(parameters[slot.part.name], self, slot)

    @property
    def shares(self) -> tuple[Tensor, ...]:
        """The weights that each replica owns."""
        return torch.split(self.weights, self.owned.numel())

    def owned_slots(self) -> Iterator[tuple[TensorSlice, slice, slice]]:
        """Yield each tensor owned in part: which elements of it, and where they are in ``owned``.

        Elements are counted in the order of the part held, row after row.
        """
        for slot in self.slots:
            start, stop = max(slot.start, self.own.start), min(slot.stop, self.own.stop)
            if start < stop:
                elements = slice(start - slot.start, stop - slot.start)
                yield slot.part, elements, slice(start - self.own.start, stop - self.own.start)


def buckets_of(decoder: Decoder, owners: Owners = Owners()) -> tuple[Bucket, ...]:
    """Move what a decoder trains into buckets: matrices layer by layer, vectors, the ends."""
    config, share = decoder.config, decoder.share
    parameters = dict(decoder.named_parameters())

    def kind(part: TensorSlice) -> Kind:
        end = part.name if part.name in (EMBEDDING, HEAD) else ""
        common = owners.gang > 1 and part.dim is None and part.role.expert is None
        decays, counted = part.role.decays, answers_for(config, share, part)
        layer = part.role.layer if decays else None
        return Kind(layer, common, decays, counted, end)

    def order(found: Kind) -> tuple[int, Kind]:
        return (-1 if found.layer is None else found.layer), found._replace(layer=0)

    trained = [(kind(part), part) for part in held_by(config, share) if part.role.trained]
    trained.sort(key=lambda pair: order(pair[0]))
    return tuple(
        Bucket(found, parts, parameters, owners)
        for found, pairs in groupby(trained, key=lambda pair: pair[0])
        for parts in _filled([part for _, part in pairs])
    )


def _filled(parts: Sequence[TensorSlice]) -> Iterator[list[TensorSlice]]:
    """Yield runs of tensors that fill a bucket; a larger tensor has one to itself."""
    run: list[TensorSlice] = []
    used = 0
    for part in parts:
        if run and used + part.elements > BUCKET_ELEMENTS:
            yield run
            run, used = [], 0
        run.append(part)
        used += part.elements
    yield run


def _slots(parts: Sequence[TensorSlice]) -> Iterator[Slot]:
    start = 0
    for part in parts:
        yield Slot(part, start, start + part.elements)
        start += part.elements


@torch.no_grad()
def _move_in(parameter: nn.Parameter, bucket: Bucket, slot: Slot) -> None:
    """Make a parameter and its gradient views of the buffers."""
    weights = bucket.weights[slot.start : slot.stop].view(parameter.shape)
    weights.copy_(parameter)
    parameter.data = weights
    parameter.grad = bucket.gradients[slot.start : slot.stop].view(parameter.shape)
