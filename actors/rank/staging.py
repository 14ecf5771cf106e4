"""The share of a new plan while a resize is under way: it waits beside the one in use.

    nothing --make--> staged --take--> in use, the one before is kept --drop--> in use
                             --drop--> nothing                        --back--> the one before

Until all is dropped, nothing that the old share needs has changed, so a resize that fails anywhere
leaves a rank that goes on under the old plan.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from actors.moving.carrier import Carrier
from actors.moving.contents import Contents, contents_of, contents_of_copy, keep
from actors.moving.gathering import Gathering
from actors.moving.transfer import Moved, Standing, Transfer
from actors.rank.determinism import set_deterministic
from actors.rank.share import LoadedShare
from actors.rank.states import State
from actors.state.sources import Blank
from actors.step.training import RankTrainer
from moe.config.products import Products, by_processor
from moe.errors import RankLost
from moe.nn.product import in_use, use
from moe.planning.plan.seats import Seat


class Staging:
    """Makes the new share of one rank from its old one and from what others send."""

    def __init__(self) -> None:
        self._staged: LoadedShare | None = None
        self._before: _Before | None = None
        self._rules = in_use()
        self._unwanted = threading.Event()

    def make(self, old: LoadedShare | None, transfer: Transfer) -> Moved:
        """Meet the other processes, give and take; the new share is then complete.

        ``old`` is None in a new process.
        """
        started = time.monotonic()
        self.drop()
        self._unwanted.clear()
        unwanted = self._unwanted.is_set
        gathering = Gathering(transfer.place, transfer.part.number, unwanted)
        try:
            held = [] if old is None else list(_held(old, transfer))
            standing = gathering.standing([each.standing for each in held])
            staged = self._blank(transfer, standing)
            target = {} if staged is None else _contents(staged)
            carrier = self._filled(gathering, held, target, transfer)
        except Exception as error:
            gathering.leave(str(error))
            raise
        gathering.leave()
        if staged is not None:
            _complete(_trainer(staged), transfer.step, standing)
        self._staged = staged
        return Moved(carrier.sent_bytes, carrier.received_bytes, time.monotonic() - started)

    @property
    def seat(self) -> Seat | None:
        """The seat of the new share; None where there is none."""
        staged = self._staged
        return None if staged is None else staged.command.seat

    def take(self, before: State) -> LoadedShare:
        """Return the new share, which waits no more, and multiply by the rules of its run.

        What the rank was ``before`` is kept. RankLost where there is no new share.
        """
        staged, self._staged = self._staged, None
        if staged is None:
            raise RankLost("this rank holds no share of another plan; have it move first")
        self._before = _Before(before, in_use())
        use(self._rules)
        return staged

    @property
    def between(self) -> bool:
        """Whether what the rank was before a resize is kept."""
        return self._before is not None

    def back(self) -> State | None:
        """Return what the rank was before it took a share, None where it took none; drop all."""
        before = self._before
        self.drop()
        if before is None:
            return None
        use(before.rules)
        return before.state

    def drop(self) -> None:
        """Forget every share but the one in use."""
        self._staged = self._before = None

    def give_up(self) -> None:
        """End a resize that is under way at its next message; called from any thread."""
        self._unwanted.set()

    def _filled(
        self, gathering: Gathering, held: Sequence["_Held"], target: Contents, transfer: Transfer
    ) -> Carrier:
        """Fill the new share from what is here and from what others send; return what carried."""
        sources = [each.contents for each in held]
        keep(sources, target)
        gathering.connect()
        carrier = Carrier(gathering, sources, target, self._unwanted.is_set)
        carrier.carry(transfer.part, transfer.step)
        gathering.finish()
        return carrier

    def _blank(self, transfer: Transfer, standing: Standing) -> LoadedShare | None:
        """Return the new share without values; the old one goes on with the rules that it has."""
        command, rules = transfer.command, in_use()
        if command is None:
            return None
        assert command.run is not None
        set_deterministic(command.run.train.deterministic)
        tuned = transfer.config.tuning is not None
        frozen = command.run.model.path if tuned else None
        source = Blank(transfer.config, standing.products, frozen)
        try:
            share = LoadedShare(command, source)
            self._rules = in_use()
        finally:
            use(rules)
        return share


def _trainer(share: LoadedShare) -> RankTrainer:
    if share.trainer is None:
        raise RankLost("this rank serves; only a run that trains is resized")
    return share.trainer


class _Before(NamedTuple):
    """What a rank was before it took a new share, and by which rules it multiplied."""

    state: State
    rules: Products


class _Held(NamedTuple):
    """What this process holds of one old seat, as of the boundary of a resize."""

    contents: Contents
    standing: Standing


def _held(old: LoadedShare, transfer: Transfer) -> Iterator[_Held]:
    """Yield what this process holds itself, unless it is to give its copy, and all copies."""
    rules, trainer, plan = by_processor([in_use()]), _trainer(old), old.command.plan
    if old.command.seat not in transfer.part.copies:
        if trainer.torn or trainer.steps_done != transfer.step:
            half = ", and the next is half done" if trainer.torn else ""
            raise RankLost(
                f"{old.command.seat} has done {trainer.steps_done} steps{half}; a resize after "
                f"{transfer.step} takes its copy of that boundary, if it has one"
            )
        yield _Held(_contents(old), Standing(dict(trainer.balancer.states), rules))
    for seat in transfer.part.copies:
        assert old.peers is not None
        copy = old.peers.copy_of(seat, transfer.step)
        contents = contents_of_copy(transfer.config, plan, old.decoder.narrow, copy)
        yield _Held(contents, Standing(copy.balance, rules))


def _complete(trainer: RankTrainer, step: int, standing: Standing) -> None:
    """Let a trainer whose tensors are all there go on."""
    trainer.stand_at(step, standing.balance)
    trainer.torn = False


def _contents(share: LoadedShare) -> Contents:
    return contents_of(share.decoder, _trainer(share).optimizer)
