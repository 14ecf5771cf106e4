"""One rank's part of training: a step over its share, in the order of a pipeline schedule."""

import resource
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from actors.balancing import ShareBalancer
from actors.commands import StageReport, StepInput
from actors.membership import Groups
from actors.optimizer import ShareOptimizer
from moe.config.run import RunConfig
from moe.config.tensors import EMBEDDING, answers_for, held_by, is_trained
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity
from moe.nn.statistics import RoutingStatistics


class StageTrainer:
    """Trains one share of a decoder together with the ranks of its groups.

    The state that outlives a step: weights, optimiser moments, the balance of each layer held, and
    how many steps are done. Layers in ``recompute`` keep no activations for the backward pass.
    """

    def __init__(
        self, decoder: Decoder, run: RunConfig, sequence_length: int, recompute: frozenset[int]
    ) -> None:
        self.run = run
        self.steps_done = 0
        self.balancer = ShareBalancer(decoder, run)
        counted = frozenset(
            tensor.name
            for tensor in held_by(decoder.config, decoder.share)
            if answers_for(decoder.config, decoder.share, tensor)
        )
        trained = {n: p for n, p in decoder.named_parameters() if is_trained(n)}
        self.optimizer = ShareOptimizer(trained, counted & trained.keys(), run.train)
        self._decoder = decoder
        self._forward = _StageForward(decoder, run.train.precision)
        self._sequence_length = sequence_length
        self._recompute = recompute
        self._groups: Groups | None = None
        self._schedule: Schedule1F1B | None = None
        self._label_count = 1

    def join(self, groups: Groups) -> None:
        """Take part in an epoch: the schedule sends and receives over its groups."""
        self._groups = groups
        place = groups.membership
        example = self._examples()
        stage = PipelineStage(
            self._forward,
            place.stage,
            place.stages,
            example[0].device,
            input_args=example[0].to("meta"),
            output_args=example[1].to("meta"),
            group=groups.pipe,
        )
        self._schedule = Schedule1F1B(
            stage, self.run.train.micro_batches, loss_fn=self._loss, scale_grads=False
        )

    def step(self, batch: StepInput) -> StageReport:
        """Run one optimiser step; every rank of the run is in the same step at the same time."""
        started = time.perf_counter()
        self.optimizer.clear()
        self._label_count = batch.label_count
        self._forward.begin(self._pass())
        losses = self._pipeline(batch)
        self._sum_tied_embedding()
        assert self._groups is not None
        norm = self.optimizer.clip(self._groups.world)
        rate = self.optimizer.step(self.steps_done)
        layers = self.balancer.after(self._forward.statistics)
        self.steps_done += 1
        return StageReport(
            rank=self._groups.membership.rank,
            step=self.steps_done,
            loss=sum(loss.item() for loss in losses) if losses else None,
            gradient_norm=norm,
            learning_rate=rate,
            layers=layers if self._decoder.share.leader else {},
            busy_seconds=time.perf_counter() - started,
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )

    def _pipeline(self, batch: StepInput) -> list[Tensor]:
        assert self._schedule is not None
        share = self._decoder.share
        losses: list[Tensor] = []
        labels = None
        if share.head and batch.labels is not None:
            labels = torch.from_numpy(batch.labels).to(self._device)
        inputs, named = self._inputs(batch)
        self._schedule.step(
            *inputs,
            target=labels,
            losses=losses if share.head else None,
            return_outputs=False,
            **named,
        )
        return losses

    def _inputs(self, batch: StepInput) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """Return what the stage takes from outside: tokens as its input, or beside it."""
        if not self.needs_tokens:
            return (), {}
        if batch.tokens is None:
            raise RuntimeError(f"step {batch.step} came without tokens to a rank that needs them")
        tokens = torch.from_numpy(batch.tokens).to(self._device)
        return ((tokens,), {}) if self._decoder.share.embedding else ((), {"tokens": tokens})

    def _loss(self, hidden_BSD: Tensor, labels_BS: Tensor) -> Tensor:
        return self._forward.loss(hidden_BSD, labels_BS, 1.0 / self._label_count)

    def _pass(self) -> Pass:
        routing = self.run.routing
        return Pass(
            capacity=Capacity(
                routing.capacity_factor,
                routing.drop_policy,
                routing.virtual_capacity_factor,
                routing.choose,
                routing.reweigh,
            ),
            balance=self.balancer.losses(),
            logits=False,
            recompute=self._recompute,
        )

    def _sum_tied_embedding(self) -> None:
        """Add the head's gradient of a tied embedding to the first stage's, on both ends alike.

        Both ends of a member hold the same rows; a plan where they do not is refused.
        """
        assert self._groups is not None
        if self._decoder.config.tie_embeddings and self._groups.ends is not None:
            gradient = self.optimizer.parameters[EMBEDDING].grad
            dist.all_reduce(gradient, group=self._groups.ends)

    def _examples(self) -> tuple[Tensor, Tensor]:
        """Return tensors like the input and the output of one micro-batch, without storage."""
        config, share = self._decoder.config, self._decoder.share
        size = (self.run.train.micro_batch, self._sequence_length)
        hidden = torch.empty(*size, config.hidden_size, device=self._device, requires_grad=True)
        if share.embedding:
            return torch.empty(*size, dtype=torch.int32, device=self._device), hidden
        return hidden, hidden

    @property
    def needs_tokens(self) -> bool:
        """Whether a step takes token numbers: to embed them, or to hash them to experts."""
        moe = self._decoder.config.moe
        return self._decoder.share.embedding or (moe is not None and moe.hashed)

    @property
    def _device(self) -> torch.device:
        return next(self._decoder.parameters()).device


class _StageForward(nn.Module):
    """What the schedule calls for each micro-batch: the decoder, under this step's settings."""

    def __init__(self, decoder: Decoder, precision: str) -> None:
        super().__init__()
        self.decoder = decoder
        self.statistics: dict[int, list[RoutingStatistics]] = {}
        self._autocast = precision == "bf16"
        self._run = Pass()

    def begin(self, run: Pass) -> None:
        """Start a step: settings for all its micro-batches, and no statistics yet."""
        self._run = run
        self.statistics = defaultdict(list)

    def forward(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Run the share and keep what its routers did."""
        with self._precision(x):
            output = self.decoder(x, replace(self._run, tokens=tokens))
        for layer, statistics in output.statistics.items():
            self.statistics[layer].append(statistics)
        values: Tensor = output.values
        return values.float()

    def loss(self, hidden_BSD: Tensor, labels_BS: Tensor, scale: float) -> Tensor:
        """Return the scaled loss of one micro-batch on the last stage."""
        with self._precision(hidden_BSD):
            return self.decoder.loss(hidden_BSD, labels_BS, scale)

    def _precision(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self._autocast)
