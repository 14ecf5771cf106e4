"""One rank of a run: its share of the model, and its place in the membership.

Knows nothing of Ray, so that tests run ranks as plain processes.
"""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._C._distributed_c10d import TCPStore

from actors.commands import BuildCommand, InferInput, RankReport, RankStatus, StepInput
from actors.decode.rank_decoder import RankDecoder
from actors.device import local_device
from actors.epochs.groups import Groups, destroy_groups, guarded, open_store
from actors.epochs.membership import Membership
from actors.state.saver import RankSaver, restore_optimizer
from actors.step.gang import GangExchange
from actors.step.training import RankTrainer
from moe.checkpoint.manifest import Manifest, load_manifest
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import WrittenFiles
from moe.config.sampling import SampledToken
from moe.errors import RankLost, RaymoeError
from moe.nn.build import build
from moe.nn.decoder import Decoder
from moe.storage import Location

ABANDON_SECONDS = 5.0
"""A write that is given up ends with the tensor it is at; what takes longer keeps its memory."""


class Rank:
    """Built once, joined once an epoch, then commanded step by step."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._exchange = GangExchange()
        self._built: _Built | None = None
        self._store: TCPStore | None = None
        self._groups: Groups | None = None
        self._epoch = 0
        self._report: RankReport | None = None
        self._saver: RankSaver | None = None
        self._working = threading.Lock()

    def build(self, command: BuildCommand) -> None:
        """Read this rank's tensors and make it ready to join."""
        torch.set_num_threads(command.threads)
        self._built = _Built(command, self._exchange)

    def open_store(self, host: str, seconds: float) -> tuple[str, int]:
        """Open the meeting place of the next epoch on this host; return its address and port."""
        self._store = open_store(host, seconds)
        return host, self._store.port

    def join(self, membership: Membership) -> None:
        """Leave the groups of the last epoch and meet the other ranks under the next."""
        self.leave()
        built = self._require_built()
        store = self._store if membership.rank == 0 else None
        with guarded(self.number, f"joining epoch {membership.epoch}"):
            groups = Groups(membership, built.device.backend, store)
        self._exchange.join(groups.gang, membership.at(member=0), built.command.unlike)
        built.join(groups)
        if built.trainer is not None:
            self._saver = self._new_saver(built, groups)
        self._groups, self._epoch = groups, membership.epoch

    def leave(self) -> None:
        """Drop the groups of the epoch, from any thread; neighbours that wait on them are freed.

        A command that runs meanwhile fails when it next begins to communicate, or when what it
        waits for does, and lets go of the groups itself.
        """
        if self._working.acquire(blocking=False):
            try:
                self._let_go()
            finally:
                self._working.release()
        else:
            self._groups = None
            destroy_groups()
        if self._saver is not None:
            self._saver.abandon(ABANDON_SECONDS)

    def train_step(self, batch: StepInput) -> RankReport:
        """Run one step; the one just done gives its report again, any other is refused."""
        trainer = self._trainer()
        if self._report is not None and batch.step + 1 == trainer.steps_done:
            return self._report
        if trainer.torn:
            raise RankLost(
                f"rank {self.number} failed when step {trainer.steps_done} was half done; it must "
                "restart from a checkpoint"
            )
        if batch.step != trainer.steps_done:
            raise RankLost(
                f"rank {self.number} has done {trainer.steps_done} steps, step {batch.step} was "
                "asked for; the ranks no longer agree and must restart from a checkpoint"
            )
        with self._communicating(f"step {batch.step}"):
            first, self._report = self._report is None, trainer.step(batch)
        if first:
            weights = dict(self._require_built().decoder.named_parameters())
            self._require_saver().prepare(weights, trainer.optimizer.states())
        return self._report

    def snapshot(self, step: int) -> None:
        """Copy what this rank contributes to a checkpoint after ``step`` steps; no others do."""
        trainer, built, saver = self._trainer(), self._require_built(), self._require_saver()
        if trainer.steps_done != step:
            raise RankLost(
                f"rank {self.number} has done {trainer.steps_done} steps, a snapshot after {step} "
                "was asked for; the drivers no longer agree and must begin anew"
            )
        weights = dict(built.decoder.named_parameters())
        seconds, states = trainer.run.cluster.step_seconds, trainer.optimizer.states()
        saver.take(step, weights, states, trainer.balancer.states, seconds)

    def write(self, directory: Location, step: int) -> WrittenFiles:
        """Write the snapshot of a step, beside whatever else this rank does; wait for it first."""
        seconds = self._trainer().run.cluster.step_seconds
        return self._require_saver().write(directory, step, seconds)

    def infer(self, work: InferInput) -> SampledToken | None:
        """Run new tokens of a sequence; the last stage's leader returns the next token."""
        built = self._require_built()
        with self._communicating(f"inference of {work.sequence}"):
            return built.generator.infer(work)

    def release(self, sequence: str) -> None:
        """Forget a sequence."""
        self._require_built().generator.release(sequence)

    def status(self) -> RankStatus:
        """Return what this rank holds; answered while a command runs."""
        trainer = self._built.trainer if self._built else None
        return RankStatus(
            rank=self.number,
            built=self._built is not None,
            epoch=self._epoch,
            joined=self._groups is not None,
            step=trainer.steps_done if trainer else 0,
            report=self._report,
            pid=os.getpid(),
            replicas=self._built.command.plan.replicas if self._built else 0,
            needs_tokens=trainer is not None and trainer.needs_tokens,
            busy=self._working.locked(),
            torn=trainer is not None and trainer.torn,
            saving=None if self._saver is None else self._saver.unfinished,
        )

    @contextmanager
    def _communicating(self, doing: str) -> Iterator[None]:
        with self._working:
            if self._groups is None:
                raise self._left()
            try:
                with guarded(self.number, doing):
                    yield
            except RaymoeError:
                self._let_go()
                raise

    def _let_go(self) -> None:
        """Hold no group of the epoch any more, which closes its connections."""
        self._groups = None
        self._exchange.join(None)
        if self._built is not None:
            self._built.leave()
        destroy_groups()
        gc.collect()

    def _left(self) -> RankLost:
        return RankLost(f"rank {self.number} has left epoch {self._epoch}; join the next first")

    def _new_saver(self, built: "_Built", groups: Groups) -> RankSaver:
        """Return what saves during an epoch; memory for snapshots is kept from the last."""
        plan, before = built.command.plan, self._saver
        seat = plan.seats.seat(groups.membership.rank)
        buffers = built.device.buffers() if before is None else before.buffers
        return RankSaver(built.decoder.config, plan, seat, groups.files, buffers)

    def _require_saver(self) -> RankSaver:
        if self._saver is None or self._groups is None:
            raise self._left()
        return self._saver

    def _require_built(self) -> "_Built":
        if self._built is None:
            raise RankLost(f"rank {self.number} holds no model yet; build it first")
        return self._built

    def _trainer(self) -> RankTrainer:
        trainer = self._require_built().trainer
        if trainer is None:
            raise RankLost(f"rank {self.number} was built to serve, not to train")
        return trainer


class _Built:
    """A rank's share with the parts that train it and generate from it."""

    def __init__(self, command: BuildCommand, exchange: GangExchange) -> None:
        self.command = command
        self.device = local_device(0)
        self.device.use()
        self._manifest = load_manifest(command.checkpoint) if command.resume else None
        checkpoint = Checkpoint.open(command.checkpoint, self._manifest)
        self.decoder: Decoder = build(
            checkpoint.config, checkpoint.read, command.share, exchange, self.device.torch_device
        )
        plan = command.plan
        home = [plan.home(chunk) for chunk in range(len(plan.chunk_spans))]
        self.generator = RankDecoder(self.decoder, home, command.stage)
        self.trainer: RankTrainer | None = None
        if command.run is not None:
            self.trainer = RankTrainer(self.decoder, command.run, command, self.device)
            if self._manifest is not None:
                self._resume(self.trainer, self._manifest)

    def join(self, groups: Groups) -> None:
        """Take part in an epoch."""
        self.generator.join(groups)
        if self.trainer is not None:
            self.trainer.join(groups)

    def leave(self) -> None:
        """Let go of the groups of an epoch."""
        self.generator.leave()
        if self.trainer is not None:
            self.trainer.leave()

    def _resume(self, trainer: RankTrainer, manifest: Manifest) -> None:
        command = self.command
        trainer.steps_done = manifest.step
        states = trainer.balancer.states
        states.update({layer: manifest.balance[layer] for layer in states})
        restore_optimizer(command.checkpoint, trainer.optimizer, manifest)
