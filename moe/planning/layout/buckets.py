"""The buckets of a share: which tensors lie where in them, and what of them each replica owns.

A rank keeps its weights and gradients in flat buckets, tensor after tensor. Each bucket is cut
evenly over the replicas (ZeRO-1): a replica alone has the optimiser's moments of its slice and
updates the weights there. This is the one definition of who owns what. The actors put tensors into
these buckets (``actors.step.buckets``), checkpoints write the moments by these ranges, and
``moe.planning.moves`` compares two plans by them.

Whatever must stay equal to the bit on several ranks lies in buckets that are equal on all of them,
so that every sum over the replicas is taken in one order. So tensors that each member of a gang
holds whole, routers above all, never share a bucket with tensors that are split; and a tied
embedding, which the first and the last stage hold, has a bucket of its own.

The buckets of a kind lie one behind the other in memory. Those of experts end where their slices
are even without padding, so that the experts of a layer lie at even distances: they are one stack
for grouped products (``moe.nn.experts``).

    two tensors of 40 and 10 elements, two replicas: slices of 32, 14 elements of padding

    element     0        32      40      50      64
    tensor      [ first  |       )[second)        )
    replica     [   0    )[          1            )
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import NamedTuple

from moe.config.model import ModelConfig
from moe.config.ranges import TensorRange
from moe.config.share import Share
from moe.config.tensors import EMBEDDING, HEAD, TensorSlice, answers_for, held_by

BUCKET_ELEMENTS = 2**24
"""A bucket of several tensors holds at most this many elements, 64 MB of float32; of experts more,
where it could not be cut evenly otherwise.
"""

_ALIGNED = 16
"""Slices begin at multiples of this many elements, which suits vector instructions."""


class Kind(NamedTuple):
    """What the tensors of a bucket have in common.

    ``layer`` is the layer they belong to, None for vectors of all layers and for the ends of the
    model. ``common``: every member of the gang holds them whole. ``decays``: weight decay applies.
    ``counted``: this rank counts them in the gradient norm. ``end`` is the name of an embedding or
    a head, empty for other tensors. ``narrow``: the weights are bfloat16, and whoever owns a slice
    has a float32 master of it; in a float32 run no tensors are.
    """

    layer: int | None
    common: bool
    decays: bool
    counted: bool
    end: str
    narrow: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one tensor lies in a bucket: elements ``start`` to ``stop``."""

    part: TensorSlice
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class OwnedSlot:
    """The range of a tensor that a replica owns; it begins at ``start`` of the replica's slice."""

    range: TensorRange
    start: int

    @property
    def slice(self) -> slice:
        """Where the range lies in the replica's slice of the bucket."""
        return slice(self.start, self.start + self.range.elements)


@dataclass(frozen=True, slots=True)
class BucketLayout:
    """Tensors of one kind in a row, in a bucket that ``replicas`` own in even slices."""

    kind: Kind
    slots: tuple[Slot, ...]
    replicas: int

    @property
    def slice_elements(self) -> int:
        """Elements of each replica's slice."""
        unit = self.replicas * _ALIGNED
        return -(-self.slots[-1].stop // unit) * _ALIGNED

    @property
    def elements(self) -> int:
        """Elements of the bucket, padding included."""
        return self.slice_elements * self.replicas

    def own(self, replica: int) -> slice:
        """Return the slice of the bucket that a replica owns."""
        size = self.slice_elements
        return slice(replica * size, (replica + 1) * size)

    def edges(self, slot: Slot) -> tuple[int, ...]:
        """Return where the replicas cut a tensor: replica r owns its elements edges[r : r + 2]."""
        size, elements = self.slice_elements, slot.stop - slot.start
        return tuple(
            min(max(replica * size - slot.start, 0), elements)
            for replica in range(self.replicas + 1)
        )

    def owned(self, replica: int) -> Iterator[OwnedSlot]:
        """Yield what a replica owns, tensor by tensor; a tensor it has nothing of is left out."""
        begin = replica * self.slice_elements
        for slot in self.slots:
            start, stop = self.edges(slot)[replica : replica + 2]
            if start < stop:
                yield OwnedSlot(TensorRange(slot.part, start, stop), slot.start + start - begin)


def bucket_layouts(
    config: ModelConfig, share: Share, replicas: int, gang: int, narrow: bool
) -> tuple[BucketLayout, ...]:
    """Return the buckets of a share: matrices layer by layer, vectors, the ends of the model.

    ``gang`` is how many ranks the gang of the share has. ``narrow`` says that the run keeps its
    weights in bfloat16; what stays float32 (``Role.exact``) then has buckets of its own.
    """

    def kind(part: TensorSlice) -> Kind:
        end = part.name if part.name in (EMBEDDING, HEAD) else ""
        common = gang > 1 and part.dim is None and part.role.expert is None
        decays, counted = part.role.decays, answers_for(config, share, part)
        layer = part.role.layer if decays else None
        return Kind(layer, common, decays, counted, end, narrow and not part.role.exact)

    def order(found: Kind) -> tuple[int, Kind]:
        return (-1 if found.layer is None else found.layer), found._replace(layer=0)

    trained = [(kind(part), part) for part in held_by(config, share) if part.role.trained]
    trained.sort(key=lambda pair: order(pair[0]))
    return tuple(
        BucketLayout(found, tuple(_slots(parts)), replicas)
        for found, pairs in groupby(trained, key=lambda pair: pair[0])
        for parts in _filled([part for _, part in pairs], replicas * _ALIGNED)
    )


def _filled(parts: Sequence[TensorSlice], unit: int) -> Iterator[Sequence[TensorSlice]]:
    """Yield the tensors of each bucket; a larger tensor has a bucket to itself.

    Buckets are padded to a multiple of ``unit`` elements.
    """
    start = 0
    while start < len(parts):
        stop = start + 1
        used = parts[start].elements
        while stop < len(parts) and used + parts[stop].elements <= BUCKET_ELEMENTS:
            used += parts[stop].elements
            stop += 1
        stop = _without_gap(parts, start, stop, unit)
        yield parts[start:stop]
        start = stop


def _without_gap(parts: Sequence[TensorSlice], start: int, stop: int, unit: int) -> int:
    """Return where a bucket ends that puts no padding between two experts: the last such place up
    to ``stop``, or else the first after it.
    """
    found = 0
    for end, total in enumerate(accumulate(part.elements for part in parts[start:]), start + 1):
        if found and end > stop:
            break
        if total % unit == 0 or end == len(parts) or not _between_experts(parts, end):
            found = end
    return found


def _between_experts(parts: Sequence[TensorSlice], end: int) -> bool:
    return all(part.role.expert is not None for part in parts[end - 1 : end + 1])


def _slots(parts: Sequence[TensorSlice]) -> Iterator[Slot]:
    start = 0
    for part in parts:
        yield Slot(part, start, start + part.elements)
        start += part.elements
