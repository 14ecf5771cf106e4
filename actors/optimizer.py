"""AdamW over one share, with warm-up, cosine decay and clipping by the global norm."""

import math
from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe.checkpoint.records import MOMENTS, OwnedState
from moe.config.run import TrainSection
from moe.errors import CheckpointError, TrainingDiverged


def learning_rate(train: TrainSection, step: int) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then cosine to the minimum."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    decay = max(train.steps - train.warmup_steps, 1)
    progress = min((step - train.warmup_steps) / decay, 1.0)
    span = train.learning_rate - train.min_learning_rate
    return train.min_learning_rate + span * 0.5 * (1.0 + math.cos(math.pi * progress))


class ShareOptimizer:
    """The optimiser state of one share.

    ``counted`` names the parameters this rank answers for in the global norm. Matrices decay,
    norms and biases do not.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], counted: frozenset[str], train: TrainSection
    ) -> None:
        self.parameters = dict(parameters)
        self._counted = counted
        self._train = train
        matrices = [p for p in self.parameters.values() if p.dim() > 1]
        others = [p for p in self.parameters.values() if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": train.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(train.beta1, train.beta2),
            eps=train.epsilon,
            fused=True,
        )

    def clear(self) -> None:
        """Zero every gradient; an expert that sees no token still has one, of zeros."""
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()

    def clip(self, world: dist.ProcessGroup | None) -> float:
        """Scale gradients to the allowed global norm; return the norm before.

        All ranks know the same norm, so all refuse one that is not finite before any weight moves.
        """
        squared = self._squared_norm()
        dist.all_reduce(squared, group=world)
        norm = squared.sqrt().item()
        if not math.isfinite(norm):
            raise TrainingDiverged(
                f"the gradient norm is {norm}; nothing was updated, the last checkpoint is sound: "
                "lower train.learning_rate, or look at the data and the model's weights"
            )
        if norm > self._train.clip_norm:
            factor = self._train.clip_norm / norm
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        return norm

    def step(self, step: int) -> float:
        """Update the parameters of a step; return its learning rate."""
        rate = learning_rate(self._train, step)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        return rate

    def states(self) -> Iterator[OwnedState]:
        """Yield the moments of every parameter, zeros before the first step."""
        for name, parameter in self.parameters.items():
            state = self._adam.state.get(parameter, {})
            moments = {
                moment: state.get(moment, torch.zeros_like(parameter)).view(-1)
                for moment in MOMENTS
            }
            yield OwnedState(name, 0, parameter.numel(), moments)

    def restore(
        self, name: str, start: int, stop: int, moments: Mapping[str, Tensor], step: int
    ) -> None:
        """Take the moments of one parameter as they were after ``step`` steps."""
        parameter = self.parameters[name]
        if (start, stop) != (0, parameter.numel()):
            raise CheckpointError(
                f"elements {start} to {stop} of {name} were restored, this rank owns all "
                f"{parameter.numel()}; give it those"
            )
        state: dict[str, Tensor] = {
            moment: value.to(parameter.device, parameter.dtype).view(parameter.shape)
            for moment, value in moments.items()
        }
        state["step"] = torch.tensor(float(step), device=parameter.device)
        self._adam.state[parameter] = state

    def _squared_norm(self) -> Tensor:
        """Return this rank's part of the squared norm, in float64 so that plans agree."""
        parts = [
            torch.linalg.vector_norm(parameter.grad, dtype=torch.float64).square()
            for name, parameter in self.parameters.items()
            if name in self._counted and parameter.grad is not None
        ]
        device = next(iter(self.parameters.values())).device
        return (
            torch.stack(parts).sum()
            if parts
            else torch.zeros((), dtype=torch.float64, device=device)
        )
