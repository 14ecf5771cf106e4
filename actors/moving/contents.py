"""What a process holds of the values of tensors, as flat ranges that another can be filled from.

The weight of a part, each moment and the master of what a replica owns: whatever lies in memory as
a range of a tensor. They are views, so to fill them is to fill the share.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.state.copies import Copy
from actors.step.optimizer import RankOptimizer
from moe.checkpoint.overlaps import boxes_of, copy_common
from moe.checkpoint.records import MASTER, MOMENTS
from moe.config.model import ModelConfig
from moe.config.ranges import TensorRange, whole_range
from moe.config.tensors import held_by
from moe.errors import RankLost
from moe.nn.decoder import Decoder
from moe.planning.layout.buckets import bucket_layouts
from moe.planning.moves.holdings import State
from moe.planning.plan.plan import Plan

WEIGHT = "weight"
"""The value of a tensor itself, beside those of the optimiser."""

VALUES: Mapping[State, tuple[str, ...]] = {
    "weights": (WEIGHT,),
    "optimizer": MOMENTS,
    "masters": (MASTER,),
}
"""The values of each state, in the order in which a message has them."""


@dataclass(frozen=True, slots=True)
class Flat:
    """Elements of one value of a tensor: a range, and its values in memory order [elements]."""

    range: TensorRange
    values: Tensor

    def copy_from(self, source: "Flat") -> int:
        """Take what both have in common; return how many elements that is."""
        return copy_common(source.values, boxes_of(source.range), self.values, boxes_of(self.range))


Contents = Mapping[tuple[str, str], Flat]
"""By value and name of the tensor."""


def contents_of(decoder: Decoder, optimizer: RankOptimizer) -> Contents:
    """Return the contents of a share that trains."""
    return dict(_contents(decoder, optimizer))


def _contents(decoder: Decoder, optimizer: RankOptimizer) -> Iterator[tuple[tuple[str, str], Flat]]:
    weights = dict(decoder.named_parameters())
    held = held_by(decoder.config, decoder.share)
    for part in (part for part in held if not part.role.frozen):
        yield (WEIGHT, part.name), Flat(whole_range(part), weights[part.name].detach().view(-1))
    for state in optimizer.states():
        for value, values in state.moments.items():
            yield (value, state.range.name), Flat(state.range, values)


def contents_of_copy(config: ModelConfig, plan: Plan, narrow: bool, copy: Copy) -> Contents:
    """Return the contents of the copy of a seat of a plan.

    In a ``narrow`` run the weights of matrices are what their masters round to.
    """
    return dict(_copied(config, plan, narrow, copy))


def _copied(
    config: ModelConfig, plan: Plan, narrow: bool, copy: Copy
) -> Iterator[tuple[tuple[str, str], Flat]]:
    """Go through the tensors in the order of ``RankTrainer.holdings``; all are float32."""
    share = plan.share(copy.seat)
    tensors = iter(tensor.view(torch.float32) for tensor in copy.tensors)
    for layout in bucket_layouts(config, share, plan.replicas, plan.gang_size, narrow):
        values = dict(zip((WEIGHT, *MOMENTS), tensors, strict=False))
        if layout.kind.narrow:
            values[MASTER] = values[WEIGHT]
        for owned in layout.owned(copy.seat.replica):
            for value, flat in values.items():
                yield (value, owned.range.name), Flat(owned.range, flat[owned.slice])
    for part in held_by(config, share):
        if not part.role.trained and not part.role.frozen:
            yield (WEIGHT, part.name), Flat(whole_range(part), next(tensors))


@torch.no_grad()
def keep(sources: Sequence[Contents], target: Contents) -> None:
    """Copy to new contents whatever the same process holds of them already."""
    for key, flat in target.items():
        for source in sources:
            if key in source:
                flat.copy_from(source[key])


def read(sources: Sequence[Contents], value: str, into: Flat) -> None:
    """Fill a range from the first contents that have all of it; RankLost where none has."""
    key = value, into.range.name
    held = (source[key] for source in sources if key in source)
    if all(into.copy_from(flat) < into.range.elements for flat in held):
        raise RankLost(
            f"asked this process to give elements {into.range.start} to {into.range.stop} of "
            f"{into.range.part} ({value}), of which it holds less; the driver and its ranks no "
            "longer agree on the plan"
        )
