"""One process of a run: the share that it holds, its part in epochs, what it says of itself.

Knows nothing of Ray: actors host it, and so do plain processes.
"""

import gc
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch._C._distributed_c10d import TCPStore

from actors.commands import (
    BuildCommand,
    RankStatus,
)
from actors.epochs.failures import Doing, conclusive, guarded
from actors.epochs.groups import Groups, open_store
from actors.epochs.leaving import leave_groups
from actors.epochs.membership import Membership
from actors.faults.armed import Armed
from actors.faults.points import POINTS
from actors.rank.determinism import set_deterministic
from actors.rank.memory import remedy
from actors.rank.share import LoadedShare
from actors.rank.silence import Alone, Silence, end_process
from actors.rank.staging import Staging
from actors.rank.states import Built, Empty, Joined, State
from actors.state.peers import Peers
from actors.state.saver import RankSaver
from actors.state.sources import Source
from actors.step.training import RankTrainer
from moe.errors import RankLost, RaymoeError

ABANDON_SECONDS = 5.0
"""A write that is given up ends with the tensor it is at; what takes longer keeps its memory."""


class Member:
    """Built once, joined once an epoch; ``actors.rank.rank`` adds what it is commanded to do.

    ``host`` is the address where the other ranks reach this one; ``alone`` is what it does when
    nobody drives it for longer than its run file allows.
    """

    def __init__(self, number: int, host: str = "127.0.0.1", alone: Alone = end_process) -> None:
        self._number = number
        self._host = host
        self._state: State = Empty()
        self._store: TCPStore | None = None
        self._working = threading.Lock()
        self._remedy: Callable[[], str] = str
        self._staging = Staging()
        self._silence = Silence(alone)
        self._freed = 0.0

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
        self._silence.limit(_patience(command))

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

    def _follow(self, share: LoadedShare) -> None:
        """Compute as the command of a share says."""
        torch.set_num_threads(share.command.threads)
        self._remedy = partial(remedy, share.command, lambda: share.decoder.config)
        self._silence.limit(_patience(share.command))

    def settled(self) -> RankStatus:
        """Return the status once every earlier command is done."""
        return self.status()

    def built_as(self) -> BuildCommand | None:
        """Return what this rank is in its run, for a driver that knows nothing of it."""
        return None if isinstance(self._state, Empty) else self._state.share.command

    def wait_for_driver(self, seconds: float) -> None:
        """Do without a driver for so long, until ``build`` says for how long the run allows it."""
        self._silence.limit(seconds)

    def silence(self) -> float | None:
        """Return for how many seconds nobody has driven this rank; None where it waits for ever.

        Other ranks ask.
        """
        return self._silence.seconds

    def status(self) -> RankStatus:
        """Return what this rank holds; answered while a command runs."""
        self._silence.heard()
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
            freed=self._freed,
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
            self._freed = time.time()
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
        config, seat = share.decoder.config, command.seat
        return RankSaver(config, command.plan, seat, groups.files, buffers, share.frozen)

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

    def _trainer(self) -> RankTrainer:
        trainer = self._share().trainer
        if trainer is None:
            raise RankLost(f"rank {self.number} was built to serve, not to train")
        return trainer


def _patience(command: BuildCommand) -> float:
    """Return for how many seconds a rank waits for its driver; 0 for ever, as one that serves."""
    return 0.0 if command.run is None else command.run.elastic.orphan_seconds
