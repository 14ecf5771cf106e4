"""One rank of a run: its state, and the commands that change it.

Knows nothing of Ray: actors host it, and so do plain processes.
"""

import gc
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch._C._distributed_c10d import TCPStore

from actors.commands import (
    BuildCommand,
    CopyReport,
    InferInput,
    RankReport,
    RankStatus,
    Recovery,
    StepInput,
)
from actors.epochs.failures import Doing, conclusive, guarded
from actors.epochs.groups import Groups, open_store
from actors.epochs.leaving import leave_groups
from actors.epochs.membership import Membership
from actors.faults.armed import Armed
from actors.faults.points import POINTS
from actors.moving.transfer import Moved, Transfer
from actors.rank.determinism import set_deterministic
from actors.rank.memory import remedy
from actors.rank.share import LoadedShare
from actors.rank.staging import Staging
from actors.rank.states import Built, Empty, Joined, State
from actors.state.peers import Peers
from actors.state.saver import RankSaver
from actors.state.sources import Source
from actors.step.training import RankTrainer
from moe.checkpoint.records import WrittenFiles
from moe.config.sampling import SampledToken
from moe.errors import RankLost, RaymoeError
from moe.planning.plan.seats import Seat
from moe.storage import Location

ABANDON_SECONDS = 5.0
"""A write that is given up ends with the tensor it is at; what takes longer keeps its memory."""


class Rank:
    """Built once, joined once an epoch, then commanded step by step.

    Every public method is one command of the engine. ``actors.rank.queues`` says which of them run
    beside others. ``host`` is the address where the other ranks reach this one.
    """

    def __init__(self, number: int, host: str = "127.0.0.1") -> None:
        self._number = number
        self._host = host
        self._state: State = Empty()
        self._store: TCPStore | None = None
        self._working = threading.Lock()
        self._remedy: Callable[[], str] = str
        self._staging = Staging()

    @property
    def number(self) -> int:
        """The global rank: of the seat once it is built, before that the one it was started as."""
        if isinstance(self._state, Empty):
            return self._number
        command = self._state.share.command
        return command.plan.seats.rank(command.seat)

    def arm(self, faults: Iterable[Armed]) -> None:
        """Have these faults, and no others, happen in this process, each at its phase and step."""
        POINTS.arm(faults)

    def build(self, command: BuildCommand, source: Source) -> None:
        """Read this rank's tensors from a source and make it ready to join."""
        self.abort()
        self._state = Empty()
        self._staging.drop()
        torch.set_num_threads(command.threads)
        set_deterministic(command.run is not None and command.run.train.deterministic)
        need = partial(remedy, command, source.config)
        with conclusive(Doing(self.number, "building", need)):
            share = LoadedShare(command, source)
            POINTS.reach("start", 0)
            self._state = Built(share)
        self._remedy = need

    def open_store(self, seconds: float) -> tuple[str, int]:
        """Open the store where the ranks of the next epoch meet; return its address and port."""
        store = self._store = open_store(self._host, seconds)
        return self._host, store.port

    def join(self, membership: Membership) -> None:
        """Leave the groups of the last epoch and meet the other ranks under the next."""
        self._leave_epoch()
        share = self._share()
        with self._in_groups(f"joining epoch {membership.epoch}"):
            backend, copies = share.device.backend, share.peers is not None
            groups = Groups(membership, backend, None, share.ways, copies)
            groups.connect(share.device)
            share.join(groups)
        saver = None if share.trainer is None else self._new_saver(share, groups)
        self._state = Joined(share, membership.epoch, groups, saver)

    def abort(self) -> None:
        """Leave the epoch, from any thread; neighbours that wait on its groups are freed.

        A command that runs meanwhile fails when it next begins to communicate, or when what it
        waits for does, and lets go of the groups itself. With its store the epoch ends also for
        ranks that still wait there for the others.
        """
        self._store = None
        self._leave_epoch()

    def _leave_epoch(self) -> None:
        """Leave the groups of the epoch, and give up what travels and what is written."""
        self._leave()
        if isinstance(self._state, Empty):
            return
        if self._state.share.peers is not None:
            self._state.share.peers.abandon(ABANDON_SECONDS)
        if self._state.saver is not None:
            self._state.saver.abandon(ABANDON_SECONDS)

    def train_step(self, batch: StepInput) -> RankReport:
        """Run one step; the one just done gives its report again, any other is refused."""
        share, trainer = self._share(), self._trainer()
        if share.report is not None and batch.step + 1 == trainer.steps_done:
            return share.report
        if trainer.torn:
            raise RankLost(
                f"rank {self.number} failed when step {trainer.steps_done} was half done; it must "
                "recover from a copy, or restart from a checkpoint"
            )
        if batch.step != trainer.steps_done:
            raise RankLost(
                f"rank {self.number} has done {trainer.steps_done} steps, step {batch.step} was "
                "asked for; the ranks no longer agree and must restart from a checkpoint"
            )
        with self._communicating(f"step {batch.step}"):
            report = trainer.step(batch, self._hold_back)
        first = share.report is None
        share.report = report
        if first:
            weights = dict(share.decoder.named_parameters())
            with conclusive(self._doing("making memory for snapshots ready")):
                self._saver().prepare(weights, trainer.optimizer.states())
        return report

    def snapshot(self, step: int) -> None:
        """Copy what this rank contributes to a checkpoint after ``step`` steps; no others do."""
        share, trainer, saver = self._share(), self._trainer(), self._saver()
        self._check_step(step, "a snapshot")
        weights = dict(share.decoder.named_parameters())
        seconds, states = trainer.run.cluster.step_seconds, trainer.optimizer.states()
        with conclusive(self._doing("taking a snapshot")):
            saver.take(step, weights, states, trainer.balancer.states, seconds)

    def write(self, directory: Location, step: int) -> WrittenFiles:
        """Write the snapshot of a step, beside whatever else this rank does; wait for it first."""
        seconds = self._trainer().run.cluster.step_seconds
        return self._saver().write(directory, step, seconds)

    def move(self, transfer: Transfer) -> Moved:
        """Do this process's part of a resize; its new share then waits beside the one in use.

        The old share stays as it is. Where it fails, the rank has left its epoch.
        """
        store = self._store if transfer.part.number == 0 else None
        with self._working, self._in_groups(f"resize {transfer.place.name}"):
            share = None if isinstance(self._state, Empty) else self._state.share
            return self._staging.make(share, transfer, store)

    def become(self) -> None:
        """Leave the epoch and take the new share of a resize; what was before is kept."""
        self.abort()
        staged = self._staging.take(self._state)
        self._state = Built(staged, self._state.epoch, self._last_saver())
        self._follow(staged)

    def revert(self) -> None:
        """Leave the epoch and be as before a resize, as far as that had come."""
        self.abort()
        before = self._staging.back()
        if before is not None:
            self._state = before
        if isinstance(self._state, Built):
            self._follow(self._state.share)

    def forget(self) -> None:
        """Drop every share of a resize but the one in use, which goes on."""
        self._staging.drop()

    def _follow(self, share: LoadedShare) -> None:
        """Compute as the command of a share says."""
        torch.set_num_threads(share.command.threads)
        self._remedy = partial(remedy, share.command, lambda: share.decoder.config)

    def copy(self, step: int) -> None:
        """Copy what this rank alone holds after ``step`` steps, for the case that it is lost.

        To be told to all ranks of the run, once all have answered the exchange before.
        """
        trainer, peers = self._trainer(), self._peers()
        self._check_step(step, "a copy")
        seconds = trainer.run.cluster.step_seconds
        with conclusive(self._doing("taking a copy")):
            peers.take(step, trainer.holdings, trainer.balancer.states, seconds)

    def exchange_copies(self, step: int, holders: Mapping[Seat, Seat]) -> CopyReport:
        """Give the copy of a step to its holder and take the one that this rank holds.

        Runs beside the next steps, and waits for the copy to be taken. To be told to all ranks of
        the run; where one answers, all have what they hold. A rank that fails leaves the epoch.
        """
        seconds, peers, epoch = self._trainer().run.cluster.step_seconds, self._peers(), self._epoch
        leave = partial(self._leave, epoch)
        doing = self._doing(f"the exchange of copies of step {step}")
        with peers.travelling(step), guarded(doing, leave):
            POINTS.reach("copy", step)
            return peers.exchange(step, holders, seconds)

    def recover(self, recovery: Recovery) -> None:
        """Go back to a boundary, in a new epoch, with all other ranks of the run.

        A rank that lost what it held receives its copy from the holder. The others go back to their
        own, unless they stand at the boundary unharmed. Then every rank has a copy of its own of
        the boundary.
        """
        share, trainer, peers = self._share(), self._trainer(), self._peers()
        seconds, step = trainer.run.cluster.step_seconds, recovery.step
        with self._communicating(f"the recovery of the boundary after {step} steps"):
            whole = peers.deliver(recovery, seconds)
            harmed = trainer.torn or trainer.steps_done != step
            if harmed or share.command.seat in recovery.gives:
                trainer.go_back(step, *peers.contents(step, trainer.holdings))
            else:
                peers.take(step, trainer.holdings, trainer.balancer.states, seconds)
            share.report = None
            trainer.spread()
            peers.keep(step if recovery.gives else whole)

    def infer(self, work: InferInput) -> SampledToken | None:
        """Run new tokens of a sequence; the last stage's leader returns the next token."""
        share = self._share()
        with self._communicating(f"inference of {work.sequence}"):
            return share.generator.infer(work)

    def release(self, sequence: str) -> None:
        """Forget a sequence."""
        self._share().generator.release(sequence)

    def settled(self) -> RankStatus:
        """Return the status once every earlier command is done."""
        return self.status()

    def status(self) -> RankStatus:
        """Return what this rank holds; answered while a command runs."""
        state = self._state
        share = None if isinstance(state, Empty) else state.share
        trainer = None if share is None else share.trainer
        peers = None if share is None else share.peers
        saver = state.saver if isinstance(state, Joined) else None
        return RankStatus(
            rank=self.number,
            built=share is not None,
            epoch=state.epoch,
            joined=isinstance(state, Joined),
            step=trainer.steps_done if trainer else 0,
            report=None if share is None else share.report,
            pid=os.getpid(),
            replicas=share.command.plan.replicas if share else 0,
            busy=self._working.locked(),
            torn=trainer is not None and trainer.torn,
            saving=None if saver is None else saver.unfinished,
            copies=peers.copies if peers else frozenset(),
            holds=peers.holds if peers else {},
            seat=None if share is None else share.command.seat,
            staged=self._staging.seat,
            between=self._staging.between,
        )

    @contextmanager
    def _communicating(self, doing: str) -> Iterator[None]:
        with self._working:
            if not isinstance(self._state, Joined):
                raise self._left()
            with self._in_groups(doing):
                yield

    @contextmanager
    def _in_groups(self, doing: str) -> Iterator[None]:
        """Tell what failed, and leave the groups with all that holds them."""
        try:
            with guarded(self._doing(doing)):
                yield
        except RaymoeError:
            self._let_go()
            raise

    def _leave(self, epoch: int | None = None) -> None:
        """Leave an epoch, the one of now unless said otherwise, under whatever runs."""
        if epoch is not None and not (isinstance(self._state, Joined) and epoch == self._epoch):
            return
        if self._working.acquire(blocking=False):
            try:
                self._let_go()
            finally:
                self._working.release()
        else:
            self._state = self._state.left()
            self._staging.give_up()
            leave_groups()
            if isinstance(self._state, Built) and self._state.share.peers is not None:
                self._state.share.peers.leave()

    def _hold_back(self) -> None:
        """Let the device change nothing more before its copies of that are made."""
        self._saver().buffers.hold_back()
        self._peers().hold_back()

    def _let_go(self) -> None:
        """Hold no group of the epoch any more, which closes its connections.

        Nobody may hold the state in a variable meanwhile: it would keep the groups alive.
        """
        self._state = self._state.left()
        if isinstance(self._state, Built):
            self._state.share.leave()
        leave_groups()
        gc.collect()

    def _doing(self, what: str) -> Doing:
        return Doing(self.number, what, self._remedy)

    def _left(self) -> RankLost:
        epoch = self._state.epoch
        return RankLost(f"rank {self.number} has left epoch {epoch}; join the next first")

    def _new_saver(self, share: LoadedShare, groups: Groups) -> RankSaver:
        """Return what saves during an epoch; memory for snapshots is kept from the last."""
        before, command = self._last_saver(), share.command
        buffers = share.device.buffers() if before is None else before.buffers
        return RankSaver(share.decoder.config, command.plan, command.seat, groups.files, buffers)

    def _last_saver(self) -> RankSaver | None:
        return None if isinstance(self._state, Empty) else self._state.saver

    def _saver(self) -> RankSaver:
        if isinstance(self._state, Joined) and self._state.saver is not None:
            return self._state.saver
        raise self._left()

    def _share(self) -> LoadedShare:
        if isinstance(self._state, Empty):
            raise RankLost(f"rank {self.number} holds no model yet; build it first")
        return self._state.share

    @property
    def _epoch(self) -> int:
        return self._state.epoch

    def _peers(self) -> Peers:
        peers = self._share().peers
        if peers is None or not isinstance(self._state, Joined):
            raise self._left()
        return peers

    def _check_step(self, step: int, what: str) -> None:
        done = self._trainer().steps_done
        if done != step:
            raise RankLost(
                f"rank {self.number} has done {done} steps, {what} after {step} was asked for; the "
                "drivers no longer agree and must begin anew"
            )

    def _trainer(self) -> RankTrainer:
        trainer = self._share().trainer
        if trainer is None:
            raise RankLost(f"rank {self.number} was built to serve, not to train")
        return trainer
