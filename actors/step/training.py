"""One rank's part of training: a step over its share, in the order of a pipeline schedule."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from actors.commands import BuildCommand, LayerReport, RankReport, StepInput
from actors.device import GLOO, Device
from actors.epochs.groups import Groups
from actors.faults.points import POINTS
from actors.step.balancing import RankBalancer
from actors.step.buckets import ReadMaster, buckets_of
from actors.step.chunks import StageLayers, StageStep
from actors.step.clock import Clock
from actors.step.mail import Mail, messages_ahead
from actors.step.monitoring import RankMonitor, with_similarity
from actors.step.optimizer import RankOptimizer
from actors.step.pipeline import Pipeline, expected
from actors.step.projectors import Projectors
from actors.step.reduction import Reduction
from actors.step.replicas import part_of_step
from moe.checkpoint.records import OwnedState
from moe.config.balance_state import BalanceState
from moe.config.layer_statistics import LayerStatistics
from moe.config.run import RunConfig
from moe.config.tensors import held_by
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity
from moe.nn.inputs import InputSums
from moe.nn.sketch import Alike
from moe.nn.totals import account, read_account
from moe.planning.schedules.schedule import Order, actions, one_by_one

_ROOM = 0.95
"""Part of the reserved memory that may stay held between steps; a step adds a little to it."""


class _Joined(NamedTuple):
    """What a trainer works with during one epoch.

    ``first`` plays the first step of the epoch, where that is another pipeline than ``pipeline``.
    """

    groups: Groups
    pipeline: Pipeline
    reduction: Reduction
    first: Pipeline | None


class _Sums(NamedTuple):
    """The account of a step over all replicas, the norm of its gradients over all ranks, and how
    alike the experts were that it began with, if it looked.
    """

    loss: float
    layers: dict[int, LayerStatistics]
    norm: float
    alike: dict[int, Alike]


class _Update(NamedTuple):
    """What a step changed by: its learning rate, and what the balance of each layer came to."""

    rate: float
    reports: dict[int, LayerReport]


class RankTrainer:
    """Trains one share of a decoder together with the ranks of its groups.

    The state that outlives a step: weights, the moments and masters of what this replica owns, the
    balance of each layer held, and how many steps are done.
    """

    def __init__(
        self,
        decoder: Decoder,
        run: RunConfig,
        command: BuildCommand,
        device: Device,
        clock: Clock,
        blank: bool = False,
    ) -> None:
        self.run = run
        self.steps_done = 0
        self.torn = False
        self.balancer = RankBalancer(decoder, run)
        self._monitor = RankMonitor(decoder, run.monitor.every)
        plan = command.plan
        cut = (command.seat.replica, plan.replicas, plan.gang_size)
        self._buckets = buckets_of(decoder, *cut, blank)
        self.optimizer = RankOptimizer(self._buckets, run.train, self._projectors(decoder))
        self._inputs: InputSums | None = None
        self._decoder = decoder
        self._command = command
        self._device = device
        self._clock = clock
        self._joined: _Joined | None = None

    def restore_masters(self, read: ReadMaster) -> None:
        """Fill the masters with what the weights were rounded from, where ``read`` has that."""
        for bucket in self._buckets:
            bucket.restore(read)

    def join(self, groups: Groups, unlike: bool) -> None:
        """Take part in an epoch: messages and sums go over its groups.

        ``unlike``: members of the gang may round differently.
        """
        plan, train, seat = self._command.plan, self.run.train, self._command.seat
        part = part_of_step(train.micro_batches, seat.replica, plan.replicas)
        orders = actions(train.schedule, len(plan.stages), len(part), plan.chunks)
        queued = groups.backend != GLOO
        self._joined = _Joined(
            groups,
            self._pipeline(orders, groups, messages_ahead(groups.backend)),
            Reduction(
                self._buckets,
                groups,
                self._clock,
                tied=self._decoder.config.tie_embeddings,
                unlike=unlike,
            ),
            self._pipeline(one_by_one(orders), groups, 0) if queued else None,
        )

    def leave(self) -> None:
        """Let go of the groups of an epoch."""
        self._joined = None

    def step(self, batch: StepInput, hold_back: Callable[[], None]) -> RankReport:
        """Run one optimiser step; every rank of the run is in the same step at the same time.

        ``hold_back`` is called before weights and moments change: a snapshot may be under way.
        If it fails between the update and the end, the trainer is ``torn`` for good: some weights
        are those of the next step, and doing it again would update them twice. Before both, the
        groups are asked whether what was read since came of all ranks.
        """
        started = time.perf_counter()
        POINTS.reach("step", batch.step)
        self._clock.begin(traced=self._is_traced())
        work = self._begin(batch)
        self._pass_through(work)
        sums = self._reduce(work)
        hold_back()
        update = self._update(sums)
        seconds = time.perf_counter() - started
        self._end()
        share = self._decoder.share
        return RankReport(
            rank=self._epoch.groups.membership.rank,
            step=self.steps_done,
            loss=sums.loss if share.head else None,
            gradient_norm=sums.norm,
            learning_rate=update.rate,
            layers=update.reports if share.leader else {},
            busy_seconds=seconds,
            peak_bytes=self._device.peak_bytes,
            waits=self._clock.end(),
            events=self._clock.events(),
        )

    def states(self) -> Iterator[OwnedState]:
        """Yield what a checkpoint has of the optimiser: views, which the next step changes."""
        yield from self.optimizer.states()
        if self.optimizer.projectors is not None:
            yield from self.optimizer.projectors.states()

    @property
    def holdings(self) -> list[Tensor]:
        """What no other replica holds of this share, flat: views, which the next step changes.

        These are what the optimiser owns, and the tensors that change without a gradient, which lie
        in no bucket. Their order and sizes depend on plan and seat alone.
        """
        decoder = self._decoder
        weights = dict(decoder.named_parameters())
        held = held_by(decoder.config, decoder.share)
        moved = (part for part in held if not part.role.trained and not part.role.frozen)
        rest = (weights[part.name].detach().view(-1) for part in moved)
        return [*self.optimizer.tensors(), *rest]

    @torch.no_grad()
    def go_back(
        self, step: int, holdings: Sequence[Tensor], balance: Mapping[int, BalanceState]
    ) -> None:
        """Fill the holdings with what they were after ``step`` steps; ``spread`` must follow."""
        self.torn = True
        for own, before in zip(self.holdings, holdings, strict=True):
            own.copy_(before)
        self.stand_at(step, balance)

    def stand_at(self, step: int, balance: Mapping[int, BalanceState]) -> None:
        """Count ``step`` steps as done, and take the balance that layers had after them.

        ``balance`` has the state of each balanced layer, and may have those of others.
        """
        self.optimizer.stand_at(step)
        states = self.balancer.states
        states.update({layer: balance[layer] for layer in states})
        self.steps_done = step

    def spread(self) -> None:
        """Give the weights of this replica to the others and take theirs; all stand at one step.

        Until all have arrived everywhere, ``torn`` is set.
        """
        self.torn = True
        self._spread()
        self.torn = False

    @property
    def _epoch(self) -> _Joined:
        """What it works with now."""
        assert self._joined is not None
        return self._joined

    def _begin(self, batch: StepInput) -> StageStep:
        """Take the inputs of a step; the gradients of the last are forgotten."""
        self.optimizer.clear()
        projectors = self.optimizer.projectors
        learns = projectors is not None and not projectors.projects(self.steps_done)
        self._inputs = InputSums() if learns else None
        work = StageStep(
            self._decoder,
            self._layers(),
            self._pass(),
            self._epoch.reduction,
            self._epoch.groups.stay,
        )
        work.take(batch, self.run.train.micro_batch)
        return work

    def _pass_through(self, work: StageStep) -> None:
        """Take all micro-batches forward and backward; gradients leave as they become whole."""
        (self._epoch.first or self._epoch.pipeline).run(work)

    def _reduce(self, work: StageStep) -> _Sums:
        """Sum gradients, account and norm over the ranks that share them; no weight has moved."""
        self._epoch.reduction.send_rest()
        POINTS.reach("reduction", self.steps_done)
        self._epoch.reduction.finish()
        alike = self._monitor.look(self.steps_done)
        loss, layers = _account(work, self._epoch.groups, self._clock)
        norm = self._norm()
        self.optimizer.clip(norm)
        return _Sums(loss, layers, norm, alike)

    def _norm(self) -> float:
        """Return the norm of the gradients of all ranks; the last of them is waited for here."""
        squared = self.optimizer.squared_norm(self._device.torch_device)
        groups = self._epoch.groups
        with self._clock.waiting("end"):
            dist.all_reduce(squared, group=groups.world)
        norm = squared.sqrt().item()
        groups.check()
        return norm

    def _update(self, sums: _Sums) -> _Update:
        """Move weights, moments and balance; until all have arrived everywhere, ``torn`` is set.

        The device is waited for here. Whether the weights of other replicas have come is known only
        then.
        """
        self.torn = True
        rate = self.optimizer.step(self.steps_done, self._epoch.groups.gang)
        if self._inputs is not None and self.optimizer.projectors is not None:
            self.optimizer.projectors.learn(self._inputs)
        reports = with_similarity(self.balancer.after(sums.layers), sums.alike)
        POINTS.reach("update", self.steps_done)
        self._spread()
        self.steps_done += 1
        self.torn = False
        return _Update(rate, reports)

    def _spread(self) -> None:
        self._epoch.reduction.spread()
        self._device.synchronise()
        self._epoch.groups.check()

    def _end(self) -> None:
        """Go on with the pipeline of the schedule, and stay within the memory reserved."""
        self._joined = self._epoch._replace(first=None)
        self._release()

    def _projectors(self, decoder: Decoder) -> Projectors | None:
        """Return projectors of the held experts, if the run has any."""
        section = self.run.train.orthogonal
        if section is None:
            return None
        return Projectors(self._buckets, section, decoder.config, decoder.share)

    def _pipeline(self, orders: tuple[Order, ...], groups: Groups, ahead: int) -> Pipeline:
        """Return this stage's work in an order of all stages."""
        stage, sequence = self._command.seat.stage, self._command.sequence_length
        size = (self.run.train.micro_batch, sequence, self._decoder.config.hidden_size)
        device = self._device.torch_device
        mail = Mail(groups.lines, size, device, expected(orders, stage), ahead, self._clock)
        return Pipeline(orders, stage, mail, self._clock)

    def _is_traced(self) -> bool:
        """Tell whether the step is one of those that the monitor looks at; one rank of each stage
        then notes when it worked on what.
        """
        seat = self._command.seat
        first = seat.replica == 0 and seat.member == 0
        return first and self._monitor.due(self.steps_done)

    def _release(self) -> None:
        """Stay within the memory that the plan reserves on the host; 0 reserves nothing."""
        reserved = self._command.plan.rank(self._command.seat).memory_bytes
        if reserved:
            self._device.release(int(_ROOM * reserved))

    def _layers(self) -> StageLayers:
        plan, stage = self._command.plan, self._command.seat.stage
        chunks = plan.chunks_of(stage)
        runs = dict(zip(chunks, plan.stages[stage].spans, strict=True))
        return StageLayers(runs, len(plan.chunk_spans) - 1)

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
            recompute=self._command.recompute,
            inputs=self._inputs,
        )


def _account(
    work: StageStep, groups: Groups, clock: Clock
) -> tuple[float, dict[int, LayerStatistics]]:
    """Return the loss and what routers did on all replicas: one sum of a few numbers, one copy."""
    total = account(work.loss, work.statistics)
    if groups.data is not None:
        with clock.waiting("replicas"):
            dist.all_reduce(total, group=groups.data)
    numbers = total.tolist()
    groups.check()
    return read_account(numbers, work.statistics)
