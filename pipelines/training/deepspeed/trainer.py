"""One worker's part of a run with DeepSpeed: the whole decoder, and its part of every step.

Losses, balance and learning rate are those of raymoe's own engine. DeepSpeed averages gradients
over the workers, and what is wanted is the gradient of the loss per label of the whole step, so
every loss is multiplied by the number of workers.
"""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from actors.commands import RankReport, StepInput, StepReport
from actors.device import Device, uploaded
from actors.engine.reports import merge
from actors.step.balancing import RankBalancer
from actors.step.optimizer import learning_rate
from actors.step.replicas import part_of
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.config.tensors import TensorSlice, tensors
from moe.errors import TrainingDiverged
from moe.nn.balance import Balance
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity
from moe.nn.documents import Documents
from moe.nn.experts.experts import Experts
from moe.nn.statistics import RoutingStatistics
from moe.nn.totals import account, read_account

WEIGHT = "weight"
"""The state of a parameter that is no moment."""


class DeepSpeedTrainer:
    """Trains the model of a run together with the other workers, which all call the same."""

    def __init__(self, run: RunConfig, table: Mapping[str, Any], device: Device) -> None:
        self._run = run
        self._device = device
        self.steps_done = 0
        checkpoint = Checkpoint.open(run.model.path)
        decoder = build(checkpoint.config, checkpoint.read, device=device.torch_device)
        self.config = checkpoint.config
        self.balancer = RankBalancer(decoder, run)
        self._engine = _engine(decoder, _adam(decoder, run), table)
        self._parameters = dict(decoder.named_parameters())

    def step(self, batch: StepInput) -> StepReport:
        """Train one step of a global batch, of which this worker takes its part."""
        started = time.perf_counter()
        rank, world = dist.get_rank(), dist.get_world_size()
        rate = learning_rate(self._run.train, self.steps_done)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        loss, seen = self._pass_through(part_of(batch, self._run.train, rank, world), world)
        norm = float(self._engine.get_global_grad_norm())
        if not norm < float("inf"):
            raise TrainingDiverged(
                f"the gradient norm is {norm} in step {batch.step}; the last checkpoint is sound: "
                "lower train.learning_rate, or look at the data and the model's weights"
            )
        total = account(loss, seen)
        dist.all_reduce(total)
        whole, layers = read_account(total.tolist(), seen)
        self.steps_done += 1
        if self.steps_done == 1:
            _link_moments(self._engine.optimizer)
        own = RankReport(
            rank,
            self.steps_done,
            whole,
            norm,
            rate,
            self.balancer.after(layers),
            time.perf_counter() - started,
            self._device.peak_bytes,
        )
        reports: list[Any] = [None] * world
        dist.all_gather_object(reports, own)
        report = merge(reports, batch.label_count, time.perf_counter() - started)
        return replace(report, computed_tokens=batch.token_count)

    def state(self, tensor: TensorSlice, state: str = WEIGHT) -> Tensor:
        """Return a weight or one of its moments, whole; all workers must ask for it together."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self._parameters[tensor.name]
        if state != WEIGHT:
            found = safe_get_full_optimizer_state(parameter, state)
        elif parameter.requires_grad:
            found = safe_get_full_fp32_param(parameter)
        else:
            with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                found = parameter.detach().clone()
        whole: Tensor = found
        return whole.detach().float().cpu().view(tensor.shape)

    def _pass_through(
        self, part: StepInput, world: int
    ) -> tuple[Tensor, dict[int, list[RoutingStatistics]]]:
        """Take the micro-batches of this worker forward and back, and update the weights."""
        assert part.tokens is not None
        assert part.labels is not None
        device, rows = self._device.torch_device, self._run.train.micro_batch
        how = self._pass(world)
        scale = 1.0 / max(part.label_count, 1)
        loss = torch.zeros((), dtype=torch.float64, device=device)
        seen: dict[int, list[RoutingStatistics]] = defaultdict(list)
        several = [torch.from_numpy(each).to(device) for each in (part.tokens, part.labels)]
        pairs = zip(*(torch.split(each, rows) for each in several), strict=True)
        documents: tuple[Documents, ...] = ()
        if part.documents is not None:
            moved = partial(uploaded, device=device)
            documents = Documents.of_each(torch.from_numpy(part.documents), rows, moved)
        for number, (tokens, labels) in enumerate(pairs):
            if documents:
                own = documents[number]
                how = replace(how, documents=own, valid=own.valid)
            found, statistics = self._engine(tokens, labels, how, scale * world)
            self._engine.backward(found, scale_wrt_gas=False)
            self._engine.step()
            loss += found.detach() / world
            for layer, each in statistics.items():
                seen[layer].append(each)
        return loss, seen

    def _pass(self, world: int) -> Pass:
        routing = self._run.routing
        losses: Balance = self.balancer.losses()
        return Pass(
            capacity=Capacity(
                routing.capacity_factor,
                routing.drop_policy,
                routing.virtual_capacity_factor,
                routing.choose,
                routing.reweigh,
            ),
            balance=replace(losses, weight=losses.weight * world),
            logits=False,
        )


class _Loss(nn.Module):
    """The decoder with its loss, as the module that DeepSpeed calls."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor, labels: Tensor, how: Pass, scale: float
    ) -> tuple[Tensor, dict[int, RoutingStatistics]]:
        output = self.decoder(tokens, how)
        return self.decoder.loss(output.values, labels, scale), output.statistics


class _Touch(torch.autograd.Function):
    """Gives x, and in the backward pass also gradients of zeros to parameters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads[0], *(torch.zeros_like(each) for each in ctx.saved_tensors)


def _touch(experts: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Touch all experts of a layer on the way in, so that their gradients are whole together.

    Workers must agree on which gradients there are and in which order they come, whichever experts
    their tokens choose; and an expert that no token chooses decays as others do.
    """
    x, *others = arguments
    touched: Tensor = _Touch.apply(x, *experts.parameters())  # type: ignore[no-untyped-call]
    return touched, *others


def _engine(decoder: Decoder, optimizer: torch.optim.Optimizer, table: Mapping[str, Any]) -> Any:
    """Return DeepSpeed's engine over a model."""
    import deepspeed
    import deepspeed.ops

    if not torch.cuda.is_available():
        # Inference alone uses this operator, and compiling it takes minutes.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    experts = [each for each in decoder.modules() if isinstance(each, Experts)]
    whole = table["zero_optimization"]["stage"] == 3
    if whole and experts:
        deepspeed.utils.set_z3_leaf_modules(decoder, [Experts])
    for each in () if whole else experts:
        each.register_forward_pre_hook(_touch)
    model = _Loss(decoder)
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=dict(table))[0]
    if whole:
        deepspeed.zero.register_external_parameter(model, decoder.head_weight)
    return engine


def _link_moments(optimizer: Any) -> None:
    """Have ZeRO-1 and 2 know the moments of all groups of parameters.

    DeepSpeed 0.19.8 looks for them once, when the first group has had its first step and the others
    have none yet.
    """
    if hasattr(optimizer, "_hp_optimizer_states_linked"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _adam(decoder: Decoder, run: RunConfig) -> torch.optim.AdamW:
    """Return AdamW over what is trained; matrices decay, norms and biases do not."""
    train, parameters = run.train, dict(decoder.named_parameters())
    trained = [each for each in tensors(decoder.config) if each.role.trained]
    groups = [
        {
            "params": [parameters[each.name] for each in trained if each.role.decays is decays],
            "weight_decay": train.weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]
    return torch.optim.AdamW(
        groups, lr=train.learning_rate, betas=(train.beta1, train.beta2), eps=train.epsilon
    )
