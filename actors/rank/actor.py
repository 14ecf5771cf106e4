"""The actor of one rank: a thin shell over its share of the model.

Commands run one after the other in the default group. ``status`` and ``abort`` are answered in a
group of their own, also while a command runs, and snapshots are written in another.
"""

import ray
from ray.util import get_node_ip_address

from actors.commands import BuildCommand, InferInput, RankReport, RankStatus, StepInput
from actors.epochs.groups import use_interface_of
from actors.epochs.membership import Membership
from actors.rank.rank import Rank
from moe.checkpoint.records import WrittenFiles
from moe.config.sampling import SampledToken
from moe.storage import Location

CONTROL = "control"
FILES = "files"


class RankActor:
    """Hosts one rank; every method is one command of the engine, told in ``actors.rank.rank``."""

    def __init__(self, rank: int) -> None:
        use_interface_of(_address())
        self._rank = Rank(rank)

    @ray.method
    def build(self, command: BuildCommand) -> None:
        """Read this rank's tensors."""
        self._rank.build(command)

    @ray.method
    def open_store(self, seconds: float) -> tuple[str, int]:
        """Open the meeting place of the next epoch."""
        return self._rank.open_store(_address(), seconds)

    @ray.method
    def join(self, membership: Membership) -> None:
        """Meet the other ranks under the next epoch."""
        self._rank.join(membership)

    @ray.method
    def train_step(self, batch: StepInput) -> RankReport:
        """Run one optimiser step."""
        return self._rank.train_step(batch)

    @ray.method
    def snapshot(self, step: int) -> None:
        """Copy what this rank contributes to a checkpoint."""
        self._rank.snapshot(step)

    @ray.method(concurrency_group=FILES)
    def write(self, directory: Location, step: int) -> WrittenFiles:
        """Write the snapshot while other commands run."""
        return self._rank.write(directory, step)

    @ray.method
    def infer(self, work: InferInput) -> SampledToken | None:
        """Run new tokens of a sequence."""
        return self._rank.infer(work)

    @ray.method
    def release(self, sequence: str) -> None:
        """Forget a sequence."""
        self._rank.release(sequence)

    @ray.method
    def settled(self) -> RankStatus:
        """Return the status once every earlier command is done."""
        return self._rank.status()

    @ray.method(concurrency_group=CONTROL)
    def status(self) -> RankStatus:
        """Return the status now."""
        return self._rank.status()

    @ray.method(concurrency_group=CONTROL)
    def abort(self) -> None:
        """Drop the process groups, also under a running command."""
        self._rank.leave()


def _address() -> str:
    """Return the address by which other nodes reach this one."""
    return str(get_node_ip_address())  # type: ignore[no-untyped-call]
