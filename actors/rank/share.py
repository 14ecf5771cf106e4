"""A rank's share of the model, with the parts that train it and generate from it."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from actors.commands import BuildCommand, RankReport
from actors.decode.rank_decoder import RankDecoder
from actors.device import planned_device
from actors.epochs.groups import Groups
from actors.epochs.lines import DOWN, UP
from actors.state.peers import Peers
from actors.state.sources import Progress, Source
from actors.step.clock import Clock
from actors.step.gang import GangExchange
from actors.step.training import RankTrainer
from moe.config.products import Products
from moe.config.tensors import TensorSlice
from moe.nn.build import ReadTensor, build
from moe.nn.product import chosen, in_use, use
from moe.planning.plan.plan import Plan

_LOG = logging.getLogger(__name__)


class LoadedShare:
    """The decoder of a share, read from a source, its trainer and its generator.

    ``trainer`` and ``peers`` are None on a rank that only serves. ``report`` is that of the last
    step done. A rank built from a blank source holds nothing until it has recovered, but what is
    ``frozen``, which is read from the model of that directory.
    """

    def __init__(self, command: BuildCommand, source: Source) -> None:
        self.command = command
        self._next: Plan | None = None
        self.device = planned_device(command.kind)
        self.device.use()
        clock = Clock(self.device)
        self._exchange = GangExchange(clock)
        opened = source.open()
        narrow = command.run is not None and command.run.train.precision == "bf16"
        read = opened.read_weight if narrow or command.run is None else opened.read_exact
        self.decoder = build(
            opened.config,
            partial(_frozen_alone, opened.read_weight) if opened.blank else read,
            command.share,
            self._exchange,
            self.device.torch_device,
            torch.bfloat16 if narrow else torch.float32,
        )
        self.frozen = opened.frozen
        _follow(opened.products)
        plan = command.plan
        self.generator = RankDecoder(
            self.decoder, plan.homes, command.seat.stage, self._exchange, own=command.run is None
        )
        self.report: RankReport | None = None
        self.trainer: RankTrainer | None = None
        self.peers: Peers | None = None
        if command.run is not None:
            parts = (self.decoder, command.run, command, self.device, clock)
            self.trainer = RankTrainer(*parts, blank=opened.blank)
            self.peers = Peers(plan.seats, command.seat, self.device.buffers)
            self.trainer.torn = opened.blank
            if not opened.blank:
                self.trainer.restore_masters(opened.read_master)
            if opened.progress is not None:
                _resume(self.trainer, opened.progress)

    def fetch_experts(self, plan: Plan, source: Source) -> None:
        """Make the experts that this seat has in another plan, beside those in use."""
        self._next = plan
        read = source.open().read_weight
        self.generator.fetch_experts(plan.share(self.command.seat), read)

    def place_experts(self) -> None:
        """Be of the plan whose experts were made."""
        self.generator.place_experts()
        assert self._next is not None
        self.command = replace(self.command, plan=self._next)

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways that messages go between its stage and others."""
        return (DOWN,) if self.trainer is None else (DOWN, UP)

    def join(self, groups: Groups) -> None:
        """Take part in an epoch."""
        leader = groups.membership.at(member=0)
        unlike = self._unlike(groups)
        self._exchange.join(groups.gang, leader, unlike)
        self.generator.join(groups)
        if self.trainer is not None:
            self.trainer.join(groups, unlike)
        if self.peers is not None:
            self.peers.join(groups.copies)

    def leave(self) -> None:
        """Let go of the groups of an epoch."""
        self._exchange.join(None)
        self.generator.leave()
        if self.trainer is not None:
            self.trainer.leave()
        if self.peers is not None:
            self.peers.leave()

    def _unlike(self, groups: Groups) -> bool:
        """Return whether members of the gang may round differently, by what their devices say."""
        if groups.files is None:
            return False
        found: list[str] = [""] * dist.get_world_size(groups.files)
        own = f"{self.device.rounding(self.command.threads)}, {in_use()}"
        dist.all_gather_object(found, own, group=groups.files)
        return len(set(found)) > 1


def _frozen_alone(read: ReadTensor, part: TensorSlice) -> Tensor | None:
    return read(part) if part.role.frozen else None


def _follow(recorded: Mapping[str, Products]) -> None:
    """Multiply by the rules that a run recorded, as far as this processor has them."""
    rules = chosen(recorded)
    use(rules)
    if recorded and recorded.get(rules.processor) != rules:
        _LOG.warning(
            "the steps so far multiplied on %s, this rank does on %s by other rules (%s); its "
            "next steps differ from theirs in rounding",
            ", ".join(sorted(recorded)),
            rules.processor,
            rules,
        )


def _resume(trainer: RankTrainer, progress: Progress) -> None:
    trainer.steps_done = progress.step
    states = trainer.balancer.states
    states.update({layer: progress.balance[layer] for layer in states})
    trainer.optimizer.restore(progress.read_moment, progress.step)
