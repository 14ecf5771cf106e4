"""One rank's part of training: a step over its share, in the order of a pipeline schedule."""

import resource
import time
from collections import defaultdict

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from actors.commands import LayerReport, StageReport, StepInput
from actors.membership import Groups
from actors.optimizer import ShareOptimizer
from moe.config.run import RunConfig
from moe.config.tensors import EMBEDDING, answers_for, held_by
from moe.nn import coefficient
from moe.nn.balance import RoutingStatistics
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity
from moe.nn.loss import cross_entropy_sum


class StageTrainer:
    """Trains one share of a decoder together with the ranks of its groups.

    The state that outlives a step: weights, optimiser moments, the coefficient of each layer held,
    and how many steps are done.
    """

    def __init__(self, decoder: Decoder, run: RunConfig, sequence_length: int) -> None:
        self.run = run
        self.steps_done = 0
        self.coefficients = coefficient.initial(run.balance.coefficient, _moe_layers(decoder))
        counted = frozenset(
            tensor.name
            for tensor in held_by(decoder.config, decoder.share)
            if answers_for(decoder.config, decoder.share, tensor)
        )
        self.optimizer = ShareOptimizer(dict(decoder.named_parameters()), counted, run.train)
        self._decoder = decoder
        self._forward = _StageForward(decoder, run.train.precision)
        self._sequence_length = sequence_length
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
        layers = self._layer_reports()
        self.coefficients = coefficient.update(
            self.run.balance.coefficient,
            self.coefficients,
            {layer: report.drop_rate for layer, report in layers.items()},
        )
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
        share, device = self._decoder.share, self._device
        losses: list[Tensor] = []
        tokens = [torch.from_numpy(batch.tokens).to(device)] if batch.tokens is not None else []
        labels = None
        if share.head and batch.labels is not None:
            labels = torch.from_numpy(batch.labels).to(device)
        self._schedule.step(
            *(tokens if share.embedding else []),
            target=labels,
            losses=losses if share.head else None,
            return_outputs=False,
        )
        return losses

    def _loss(self, logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
        return cross_entropy_sum(logits_BSV, labels_BS) / self._label_count

    def _pass(self) -> Pass:
        routing = self.run.routing
        return Pass(
            capacity=Capacity(
                routing.capacity_factor, routing.drop_policy, routing.virtual_capacity_factor
            ),
            balance=self.run.balance.loss,
            balance_scales={
                k: a / self.run.train.micro_batches for k, a in self.coefficients.items()
            },
        )

    def _sum_tied_embedding(self) -> None:
        """Add the head's gradient of a tied embedding to the first stage's, on both ends alike."""
        assert self._groups is not None
        if self._decoder.config.tie_embeddings and self._groups.ends is not None:
            gradient = self.optimizer.parameters[EMBEDDING].grad
            dist.all_reduce(gradient, group=self._groups.ends)

    def _layer_reports(self) -> dict[int, LayerReport]:
        return {
            layer: _layer_report(statistics, self.coefficients[layer])
            for layer, statistics in self._forward.statistics.items()
        }

    def _examples(self) -> tuple[Tensor, Tensor]:
        """Return tensors like the input and the output of one micro-batch, without storage."""
        config, share = self._decoder.config, self._decoder.share
        size = (self.run.train.micro_batch, self._sequence_length)
        hidden = torch.empty(*size, config.hidden_size, device=self._device, requires_grad=True)
        first, last = hidden, hidden
        if share.embedding:
            first = torch.empty(*size, dtype=torch.int32, device=self._device)
        if share.head:
            last = torch.empty(*size, config.vocab_size, device="meta", requires_grad=True)
        return first, last

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

    def forward(self, x: Tensor) -> Tensor:
        """Run the share and keep what its routers did."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._autocast):
            output = self.decoder(x, self._run)
        for layer, statistics in output.statistics.items():
            self.statistics[layer].append(statistics)
        values: Tensor = output.values
        return values.float()


def _layer_report(batches: list[RoutingStatistics], alpha: float) -> LayerReport:
    def mean(values: list[Tensor]) -> float:
        return torch.stack(values).float().mean().item()

    load = torch.stack([batch.load for batch in batches]).sum(dim=0)
    return LayerReport(
        load=tuple(load.tolist()),
        drop_rate=mean([batch.drop_rate for batch in batches]),
        coefficient=alpha,
        balance_loss=mean([batch.balance_loss for batch in batches]),
        sharpness=mean([batch.sharpness for batch in batches]),
    )


def _moe_layers(decoder: Decoder) -> range:
    return decoder.share.layer_numbers if decoder.config.moe else range(0)
