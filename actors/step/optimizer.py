"""AdamW over the part of a share that one replica owns, clipped by the global norm."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.adamw import adamw

from actors.step.buckets import Bucket
from actors.step.projectors import Projectors
from moe.checkpoint.memory import zeros
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

    def __init__(
        self,
        buckets: Sequence[Bucket],
        train: TrainSection,
        projectors: Projectors | None = None,
    ) -> None:
        self.projectors = projectors
        self._buckets = buckets
        self._train = train
        self._states = [_State.of(bucket) for bucket in buckets]

    def clear(self) -> None:
        """Zero every gradient; an expert that sees no token still has one, of zeros."""
        for bucket in self._buckets:
            bucket.gradients.zero_()

    def squared_norm(self, device: torch.device) -> Tensor:
        """Return this rank's part of the squared norm on its device, in float64 so that plans
        agree.
        """
        parts = [
            torch.linalg.vector_norm(bucket.gradients[bucket.own], dtype=torch.float64).square()
            for bucket in self._buckets
            if bucket.kind.counted
        ]
        return torch.stack([torch.zeros((), dtype=torch.float64, device=device), *parts]).sum()

    def clip(self, norm: float) -> None:
        """Scale the gradients owned to the allowed norm; ``norm`` is that of all ranks together.

        All ranks know the same norm, so all refuse one that is not finite before any weight moves.
        """
        if not math.isfinite(norm):
            raise TrainingDiverged(
                f"the gradient norm is {norm}; nothing was updated, the last checkpoint is sound: "
                "lower train.learning_rate, or look at the data and the model's weights"
            )
        if norm > self._train.clip_norm:
            factor = self._train.clip_norm / norm
            for bucket in self._buckets:
                bucket.gradients[bucket.own].mul_(factor)

    def step(self, step: int, gang: dist.ProcessGroup | None = None) -> float:
        """Update what is owned; return the learning rate of the step."""
        rate = learning_rate(self._train, step)
        decaying = [each for each in self._states if each.bucket.kind.decays]
        if self.projectors is not None and self.projectors.projects(step):
            decaying = self._projected(self.projectors, decaying, rate, gang)
        others = [each for each in self._states if not each.bucket.kind.decays]
        self._update(decaying, rate, self._train.weight_decay)
        self._update(others, rate, 0.0)
        return rate

    def states(self) -> Iterator[OwnedState]:
        """Yield moments and masters owned, tensor by tensor: views, which the next step changes."""
        for state in self._states:
            values = dict(state.moments)
            if state.bucket.kind.narrow:
                values[MASTER] = state.bucket.owned
            for owned in state.bucket.owned_slots():
                own = {name: value[owned.slice] for name, value in values.items()}
                yield OwnedState(owned.range, own)

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is owned, flat, bucket by bucket: weights or masters, then both moments."""
        for state in self._states:
            yield state.bucket.owned
            yield from state.moments.values()

    def stand_at(self, step: int) -> None:
        """Count the next update as the one after ``step`` steps."""
        for state in self._states:
            state.step.fill_(float(step))

    def restore(self, read: ReadMoment, step: int) -> None:
        """Fill the moments owned from ``read``, as they were after ``step`` steps."""
        self.stand_at(step)
        for state in self._states:
            for owned in state.bucket.owned_slots():
                for moment, values in state.moments.items():
                    values[owned.slice].copy_(read(owned.range, moment))
        for projector in () if self.projectors is None else self.projectors.states():
            for name, value in projector.moments.items():
                value.copy_(read(projector.range, name))

    def _projected(
        self,
        projectors: Projectors,
        states: Sequence["_State"],
        rate: float,
        gang: dist.ProcessGroup | None,
    ) -> list["_State"]:
        """Update the buckets with experts, one after the other; return the states of the others."""
        found = {id(each.bucket): each for each in states if projectors.has_experts(each.bucket)}
        for layer in projectors.layers:
            own = [s.bucket for s in found.values() if projectors.has_experts(s.bucket, layer)]
            for bucket in projectors.projected(layer, own, gang):
                self._update([found[id(bucket)]], rate, self._train.weight_decay)
        return [each for each in states if id(each.bucket) not in found]

    @torch.no_grad()
    def _update(self, states: Sequence["_State"], rate: float, decay: float) -> None:
        """Let torch's fused AdamW update what some states belong to.

        The function, because the class would import torch's compiler: one second for each process.
        """
        if not states:
            return
        adamw(
            [each.bucket.owned for each in states],
            [each.gradient for each in states],
            [each.moments[MOMENTS[0]] for each in states],
            [each.moments[MOMENTS[1]] for each in states],
            max_exp_avg_sqs=[],
            state_steps=[each.step for each in states],
            fused=True,
            amsgrad=False,
            beta1=self._train.beta1,
            beta2=self._train.beta2,
            lr=rate,
            weight_decay=decay,
            eps=self._train.epsilon,
            maximize=False,
        )


class _State(NamedTuple):
    """What AdamW reads and writes of one bucket: ``step`` counts the steps, as torch wants it."""

    bucket: Bucket
    moments: dict[str, Tensor]
    step: Tensor

    @classmethod
    def of(cls, bucket: Bucket) -> "_State":
        """Return the state before the first step."""
        own = bucket.owned
        moments = {moment: zeros(own.numel(), own.dtype, own.device) for moment in MOMENTS}
        step = torch.zeros((), dtype=torch.float32, device=bucket.owned.device)
        return cls(bucket, moments, step)

    @property
    def gradient(self) -> Tensor:
        """The gradient of what is owned."""
        gradient = self.bucket.owned.grad
        assert gradient is not None
        return gradient
