"""The Ray actor of one rank: a thin shell over ``actors.rank.rank``.

Commands run one after the other in the default group. Those of ``actors.rank.queues`` have groups
of their own, so they are answered while a command runs.
"""

import gc
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import psutil
import ray
from ray.util import get_node_ip_address

from actors.commands import (
    AdapterSource,
    Answerable,
    Answering,
    Batch,
    BatchOutput,
    BuildCommand,
    CopyReport,
    RankReport,
    RankStatus,
    Recovery,
    StepInput,
)
from actors.epochs.environment import prepare
from actors.epochs.membership import Membership
from actors.faults.armed import Armed
from actors.moving.transfer import Moved, Transfer
from actors.rank.fate import share_fate
from actors.rank.gauges import Gauges
from actors.rank.imports import import_late
from actors.rank.queues import QUEUES
from actors.rank.rank import Rank
from actors.state.sources import Source
from moe.checkpoint.records import WrittenFiles
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.storage import Location

LIFE = "life"
"""The concurrency group of the call that ends with the actor."""

UNBUILT_SECONDS = 600.0
"""A rank is told what it is within seconds; one that is not has lost its driver."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Which GPUs of the node the process sees; read when it first touches one."""


class Whereabouts(NamedTuple):
    """The reservation that an actor sits in, by name, the GPUs that it sees, as CUDA reads, and
    its process: number and time of start, which no other process of the node has together.
    """

    place: str
    devices: str
    pid: int
    started: float


class RankActor:
    """Hosts one rank; every method is one command of the engine, told in ``actors.rank.rank``.

    An actor that has not sat down is a warm process: it has imported all and holds nothing.
    ``alone`` is called with its place and the seconds that it has waited, where nobody drives it.
    """

    def __init__(self, alone: Callable[[str, float], None]) -> None:
        self._host = str(get_node_ip_address())  # type: ignore[no-untyped-call]
        self._alone = alone
        prepare(self._host)
        import_late()
        share_fate()
        gc.freeze()  # what is imported is alive for good, and takes long to look through
        self._rank = Rank(-1, self._host)
        self._place = ""
        self._gauges = Gauges()

    @ray.method
    def sit(self, number: int, place: str, devices: str | None) -> Whereabouts:
        """Become a rank in a reservation; see other GPUs than Ray gave, where ``devices`` says."""
        if devices is not None:
            os.environ[VISIBLE] = devices
        self._rank = Rank(number, self._host, partial(self._alone, place))
        self._rank.wait_for_driver(UNBUILT_SECONDS)
        self._place = place
        return self._whereabouts()

    @ray.method(concurrency_group=QUEUES["status"])
    def whereabouts(self) -> Whereabouts:
        """Return where the actor sits; the name is empty where it has not sat down."""
        return self._whereabouts()

    @ray.method
    def arm(self, faults: tuple[Armed, ...]) -> None:
        """Have faults happen in this process."""
        self._rank.arm(faults)

    @ray.method
    def build(self, command: BuildCommand, source: Source) -> None:
        """Read this rank's tensors."""
        self._rank.build(command, source)

    @ray.method
    def open_store(self, seconds: float) -> tuple[str, int]:
        """Open the store where the ranks of the next epoch meet."""
        return self._rank.open_store(seconds)

    @ray.method
    def join(self, membership: Membership) -> None:
        """Meet the other ranks under the next epoch."""
        self._rank.join(membership)

    @ray.method
    def train_step(self, batch: StepInput) -> RankReport:
        """Run one optimiser step."""
        report, built = self._rank.train_step(batch), self._rank.built_as()
        if built is not None:
            self._gauges.tell(built, report)
        return report

    @ray.method
    def snapshot(self, step: int) -> None:
        """Copy what this rank contributes to a checkpoint."""
        self._rank.snapshot(step)

    @ray.method(concurrency_group=QUEUES["write"])
    def write(self, directory: Location, step: int) -> WrittenFiles:
        """Write the snapshot while other commands run."""
        return self._rank.write(directory, step)

    @ray.method
    def move(self, transfer: Transfer) -> Moved:
        """Do this process's part of a resize."""
        return self._rank.move(transfer)

    @ray.method
    def become(self) -> None:
        """Take the new share of a resize; what was before is kept."""
        self._rank.become()

    @ray.method
    def revert(self) -> None:
        """Be as before a resize."""
        self._rank.revert()

    @ray.method
    def forget(self) -> None:
        """Drop every share but the one in use."""
        self._rank.forget()

    @ray.method
    def follow(self, plan: Plan) -> None:
        """Be of a plan, whatever a driver that died left."""
        self._rank.follow(plan)

    @ray.method
    def copy(self, step: int) -> None:
        """Copy what this rank alone holds."""
        self._rank.copy(step)

    @ray.method(concurrency_group=QUEUES["exchange_copies"])
    def exchange_copies(self, step: int, holders: Mapping[Seat, Seat]) -> CopyReport:
        """Give the copy to its holder, and take another's, while other commands run."""
        return self._rank.exchange_copies(step, holders)

    @ray.method
    def recover(self, recovery: Recovery) -> None:
        """Go back to a boundary with all other ranks."""
        self._rank.recover(recovery)

    @ray.method
    def answer_as(self, how: Answering) -> Answerable:
        """Make ready to answer."""
        return self._rank.answer_as(how)

    @ray.method
    def answer_no_more(self) -> None:
        """Give back the memory that answering took."""
        self._rank.answer_no_more()

    @ray.method
    def infer(self, batch: Batch) -> BatchOutput | None:
        """Run a batch of sequences."""
        return self._rank.infer(batch)

    @ray.method(concurrency_group=QUEUES["adopt"])
    def adopt(self, source: AdapterSource) -> None:
        """Take up an adapter while batches run."""
        self._rank.adopt(source)

    @ray.method
    def drop(self, adapter: int) -> None:
        """Forget an adapter."""
        self._rank.drop(adapter)

    @ray.method
    def expert_loads(self) -> Mapping[int, tuple[int, ...]]:
        """Return the load of experts since the last time."""
        return self._rank.expert_loads()

    @ray.method(concurrency_group=QUEUES["fetch_experts"])
    def fetch_experts(self, plan: Plan, source: Source) -> None:
        """Make the experts of another plan while batches run."""
        self._rank.fetch_experts(plan, source)

    @ray.method
    def place_experts(self) -> None:
        """Take the experts that were made."""
        self._rank.place_experts()

    @ray.method
    def settled(self) -> RankStatus:
        """Return the status once every earlier command is done."""
        return self._rank.settled()

    @ray.method(concurrency_group=QUEUES["status"])
    def status(self) -> RankStatus:
        """Return the status now."""
        return self._rank.status()

    @ray.method(concurrency_group=QUEUES["built_as"])
    def built_as(self) -> BuildCommand | None:
        """Return what the rank is in its run."""
        return self._rank.built_as()

    @ray.method(concurrency_group=QUEUES["silence"])
    def silence(self) -> float | None:
        """Return for how long nobody has driven the rank; None where it waits for ever."""
        return self._rank.silence()

    @ray.method(concurrency_group=QUEUES["abort"])
    def abort(self) -> None:
        """Drop the process groups, also under a running command."""
        self._rank.abort()

    @ray.method(concurrency_group=LIFE)
    def live(self) -> None:
        """Never return: the call fails when the actor dies, which tells its callers at once."""
        threading.Event().wait()

    def _whereabouts(self) -> Whereabouts:
        process = psutil.Process()
        return Whereabouts(
            self._place, os.environ.get(VISIBLE, ""), process.pid, process.create_time()
        )
