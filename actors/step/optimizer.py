"""AdamW over the part of a share that one replica owns, clipped by the global norm."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from actors.epochs.groups import Groups
from actors.step.buckets import Bucket
from moe.checkpoint.records import MASTER, MOMENTS, OwnedState
from moe.config.ranges import TensorRange
from moe.config.run import TrainSection
from moe.errors import TrainingDiverged

ReadMoment = Callable[[TensorRange, str], Tensor]
"""Returns one moment of a range of a tensor, one-dimensional."""


def learning_rate(train: TrainSection, step: int) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then cosine to the minimum."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    decay = max(train.steps - train.warmup_steps, 1)
    progress = min((step - train.warmup_steps) / decay, 1.0)
    span = train.learning_rate - train.min_learning_rate
    return train.min_learning_rate + span * 0.5 * (1.0 + math.cos(math.pi * progress))


class RankOptimizer:
    """The optimiser's states of what this replica owns. Matrices decay, norms and biases do not.

    It updates what each bucket calls ``owned``: weights, or the masters of bfloat16 weights.
    """

    def __init__(self, buckets: Sequence[Bucket], train: TrainSection) -> None:
        self._buckets = buckets
        self._train = train
        decays = [bucket.owned for bucket in buckets if bucket.kind.decays]
        others = [bucket.owned for bucket in buckets if not bucket.kind.decays]
        groups = [
            {"params": decays, "weight_decay": train.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(train.beta1, train.beta2),
            eps=train.epsilon,
            fused=True,
        )
        for bucket in buckets:
            state = {moment: torch.zeros_like(bucket.owned) for moment in MOMENTS}
            state["step"] = torch.zeros((), dtype=torch.float32, device=bucket.owned.device)
            self._adam.state[bucket.owned] = state

    def clear(self) -> None:
        """Zero every gradient; an expert that sees no token still has one, of zeros."""
        for bucket in self._buckets:
            bucket.gradients.zero_()

    def clip(self, groups: Groups | None) -> float:
        """Scale the gradients owned to the allowed global norm; return the norm before.

        All ranks know the same norm, so all refuse one that is not finite before any weight moves.
        With no ``groups`` this rank is alone.
        """
        squared = self._squared_norm()
        if groups is not None:
            dist.all_reduce(squared, group=groups.world)
        norm = squared.sqrt().item()
        if groups is not None:
            groups.check()
        if not math.isfinite(norm):
            raise TrainingDiverged(
                f"the gradient norm is {norm}; nothing was updated, the last checkpoint is sound: "
                "lower train.learning_rate, or look at the data and the model's weights"
            )
        if norm > self._train.clip_norm:
            factor = self._train.clip_norm / norm
            for bucket in self._buckets:
                bucket.gradients[bucket.own].mul_(factor)
        return norm

    def step(self, step: int) -> float:
        """Update what is owned; return the learning rate of the step."""
        rate = learning_rate(self._train, step)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        return rate

    def states(self) -> Iterator[OwnedState]:
        """Yield moments and masters owned, tensor by tensor: views, which the next step changes."""
        for bucket in self._buckets:
            state = self._adam.state[bucket.owned]
            values = {moment: state[moment] for moment in MOMENTS}
            if bucket.kind.narrow:
                values[MASTER] = bucket.owned
            for owned in bucket.owned_slots():
                own = {name: value[owned.slice] for name, value in values.items()}
                yield OwnedState(owned.range, own)

    def restore(self, read: ReadMoment, step: int) -> None:
        """Fill the moments owned from ``read``, as they were after ``step`` steps."""
        for bucket in self._buckets:
            state = self._adam.state[bucket.owned]
            state["step"].fill_(float(step))
            for owned in bucket.owned_slots():
                for moment in MOMENTS:
                    state[moment][owned.slice].copy_(read(owned.range, moment))

    def _squared_norm(self) -> Tensor:
        """Return this rank's part of the squared norm, in float64 so that plans agree."""
        device = self._buckets[0].owned.device
        parts = [
            torch.linalg.vector_norm(bucket.gradients[bucket.own], dtype=torch.float64).square()
            for bucket in self._buckets
            if bucket.kind.counted
        ]
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return torch.stack([zero, *parts]).sum()
