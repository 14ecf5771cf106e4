"""The share of a new plan while a resize is under way: it waits beside the one in use.

    nothing --make--> staged --take--> in use
                             --drop--> nothing

Until it is taken, nothing that the old share needs has changed, so a resize that fails anywhere
leaves a rank that goes on under the old plan.
"""

import threading
import time

from torch._C._distributed_c10d import Store

from actors.moving.carrier import Carrier
from actors.moving.contents import Contents, contents_of, keep
from actors.moving.gathering import Gathering
from actors.moving.transfer import Moved, Standing, Transfer
from actors.rank.determinism import set_deterministic
from actors.rank.share import LoadedShare
from actors.state.sources import Blank
from actors.step.training import RankTrainer
from moe.config.products import by_processor
from moe.errors import RankLost
from moe.nn.product import in_use, use


class Staging:
    """Makes the new share of one rank from its old one and from what others send."""

    def __init__(self) -> None:
        self._staged: LoadedShare | None = None
        self._rules = in_use()
        self._unwanted = threading.Event()

    def make(self, old: LoadedShare | None, transfer: Transfer, store: Store | None) -> Moved:
        """Meet the other processes, give and take; the new share is then complete.

        ``old`` is None in a new process. ``store`` is that of number 0.
        """
        started = time.monotonic()
        self.drop()
        self._unwanted.clear()
        number, unwanted = transfer.part.number, self._unwanted.is_set
        gathering = Gathering(transfer.place, number, store, unwanted)
        try:
            standing = gathering.standing([] if old is None else [_standing(old)])
            staged = self._blank(transfer, standing)
            sources = [] if old is None else [_contents(old)]
            target = {} if staged is None else _contents(staged)
            keep(sources, target)
            gathering.connect()
            carrier = Carrier(gathering, sources, target, unwanted)
            carrier.carry(transfer.part)
            gathering.finish()
        finally:
            gathering.leave()
        self._staged = staged
        return Moved(carrier.sent_bytes, carrier.received_bytes, time.monotonic() - started)

    def take(self) -> LoadedShare:
        """Return the new share, which waits no more, and multiply by the rules of its run.

        RankLost where there is none.
        """
        staged, self._staged = self._staged, None
        if staged is None:
            raise RankLost("this rank holds no share of another plan; have it move first")
        use(self._rules)
        return staged

    def drop(self) -> None:
        """Forget the new share."""
        self._staged = None

    def give_up(self) -> None:
        """End a resize that is under way at its next message; called from any thread."""
        self._unwanted.set()

    def _blank(self, transfer: Transfer, standing: Standing) -> LoadedShare | None:
        """Return the new share without values; the old one goes on with the rules that it has."""
        command, rules = transfer.command, in_use()
        if command is None:
            return None
        assert command.run is not None
        set_deterministic(command.run.train.deterministic)
        source = Blank(transfer.config, standing.step, standing.balance, standing.products)
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


def _standing(share: LoadedShare) -> Standing:
    trainer = _trainer(share)
    balance = dict(trainer.balancer.states)
    return Standing(trainer.steps_done, balance, by_processor([in_use()]))


def _contents(share: LoadedShare) -> Contents:
    return contents_of(share.decoder, _trainer(share).optimizer)
