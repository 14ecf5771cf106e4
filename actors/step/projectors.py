"""The projectors of a rank's experts, and updates orthogonal to what other experts are given.

OMoE (arXiv 2310.09762) over orthogonal weight modification. Each expert has a projector P for the
inputs of its gate and up projections and one for those of down, the identity at first. Steps of the
first phase update it with the mean input x of the tokens of the expert::

    P <- P - (P x)(P x)^T / (a + x^T P x)

so P x becomes a / (a + x^T P x) of what it was: for a small constant a, P projects onto what is
orthogonal to the inputs so far. In the second phase the update dW of expert i, as AdamW made it,
with decay, becomes::

    dW_i <- dW_i mean of P_j over the other experts j of the layer

The update is projected, and not the gradient: AdamW divides each element by its own size, after
which nothing would be orthogonal. Rows of dW are projected each for itself, along the inputs, so a
rank must have whole rows; where one replica owns everything, it has.

Shapes: N experts of the layer, I inputs of a matrix, O outputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from actors.step.buckets import Bucket
from moe.checkpoint.records import OwnedState
from moe.config.model import ModelConfig
from moe.config.projectors import PROJECTOR, has_projector, projector_of
from moe.config.ranges import whole_range
from moe.config.role import Role
from moe.config.run.orthogonal import OrthogonalSection
from moe.config.share import Share
from moe.config.tensors import TensorSlice
from moe.nn.inputs import InputSums


@dataclass(frozen=True, slots=True)
class _Place:
    """A matrix of an expert in the slice that this replica owns of a bucket."""

    part: TensorSlice
    bucket: Bucket
    where: slice

    @property
    def matrix(self) -> Tensor:
        """What the optimiser updates of it, [O, I]."""
        return self.bucket.owned[self.where].view(self.part.shape)


class Projectors:
    """One projector for the inputs of each matrix of each held expert."""

    def __init__(
        self,
        buckets: Sequence[Bucket],
        section: OrthogonalSection,
        config: ModelConfig,
        share: Share,
    ) -> None:
        """Begin with identities."""
        assert config.moe is not None
        self._section = section
        self._others = config.moe.experts - 1
        self._sizes = {"gate": config.hidden_size, "down": config.moe.expert_size}
        self._device = buckets[0].owned.device
        self.layers = [layer for layer in share.layer_numbers if config.has_experts(layer)]
        self._places = [
            _Place(owned.range.part, bucket, owned.slice)
            for bucket in buckets
            for owned in bucket.owned_slots()
            if owned.range.part.role.expert is not None
        ]
        self._kept = {
            place.part.role: (projector_of(place.part), self._identity(place.part.role.part))
            for place in self._places
            if has_projector(place.part)
        }

    def projects(self, step: int) -> bool:
        """Return whether the update of a step is projected."""
        return self._section.projects(step)

    def states(self) -> Iterator[OwnedState]:
        """Yield the projectors as a checkpoint has them: views, which the next step changes."""
        for part, value in self._kept.values():
            yield OwnedState(whole_range(part), {PROJECTOR: value.view(-1)})

    @torch.no_grad()
    def learn(self, sums: InputSums) -> None:
        """Update the projectors with the mean inputs of a step."""
        for role, (_, value) in self._kept.items():
            assert role.layer is not None
            assert role.expert is not None
            found = sums.found.get((role.layer, role.expert))
            if found is not None:
                total = found.hidden if role.part == "gate" else found.inner
                learned(value, (total / found.tokens).float(), self._section.constant)

    def has_experts(self, bucket: Bucket, layer: int | None = None) -> bool:
        """Return whether experts, of any layer or of one, lie in a bucket."""
        return any(
            place.bucket is bucket and layer in (None, place.part.role.layer)
            for place in self._places
        )

    @torch.no_grad()
    def projected(
        self, layer: int, buckets: Sequence[Bucket], gang: dist.ProcessGroup | None
    ) -> Iterator[Bucket]:
        """Yield each bucket with experts of a layer; project how its owner has updated it by then.

        Every rank of a gang goes through the same layers, also one that holds none of the experts.
        """
        means = self._sums(layer, gang)
        for bucket in buckets:
            places = [each for each in self._places if each.bucket is bucket]
            before = [place.matrix.clone() for place in places]
            yield bucket
            for place, old in zip(places, before, strict=True):
                role = _kept_under(place.part.role)
                mean = (means[role.part] - self._kept[role][1]) / self._others
                place.matrix.copy_(old + (place.matrix - old) @ mean)

    def _sums(self, layer: int, gang: dist.ProcessGroup | None) -> dict[str, Tensor]:
        """Return the sums of the projectors of a layer over all its experts."""
        sums = {}
        for part, size in self._sizes.items():
            total = torch.zeros(size, size, device=self._device)
            for role, (_, value) in self._kept.items():
                if role.layer == layer and role.part == part:
                    total += value
            if gang is not None:
                dist.all_reduce(total, group=gang)
            sums[part] = total
        return sums

    def _identity(self, part: str) -> Tensor:
        return torch.eye(self._sizes[part], device=self._device)


def learned(projector: Tensor, x_I: Tensor, constant: float) -> None:
    """Take the direction of an input out of a projector, in place."""
    along_I = projector @ x_I
    projector -= torch.outer(along_I, along_I) / (constant + x_I @ along_I)


def _kept_under(role: Role) -> Role:
    """Return the role of the matrix under which the projector of a matrix is kept."""
    return replace(role, part="gate") if role.part == "up" else role
