"""Whether the copies of ranks fit beside everything else, and what a run does without where not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from moe.config.model import ModelConfig
from moe.config.tensors import held_by
from moe.planning.counts.copies import SLOTS, copy_bytes
from moe.planning.counts.work import Parameters
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import rank_bytes_of
from moe.sizes import size_text


@dataclass(frozen=True, slots=True)
class CopyRoom:
    """What the copies take of each rank of a replica, and the bytes that it then lacks, 0 for none.

    ``taken`` counts two copies of the rank and two of the largest other rank, whichever it holds.
    """

    taken: tuple[int, ...]
    short: tuple[int, ...]

    @property
    def fits(self) -> bool:
        """Whether every rank has room for copies."""
        return not any(self.short)

    @property
    def told(self) -> str:
        """One sentence for the person who runs the plan."""
        if self.fits:
            return (
                f"copies of ranks in their peers take at most {size_text(max(self.taken))} a rank"
            )
        rank = max(range(len(self.short)), key=lambda each: self.short[each])
        return (
            f"copies of ranks in their peers do not fit: rank {rank} lacks "
            f"{size_text(self.short[rank])}. Without them every loss sends the run back to its "
            "last checkpoint: give it more stages, wider gangs, more replicas or nodes with more "
            "memory, or save checkpoints more often"
        )


def room_for_copies(
    config: ModelConfig, plan: Plan, inventory: Inventory, workload: Workload
) -> CopyRoom:
    """Return whether copies fit on every rank of a plan, on the devices that it names.

    Copies lie in memory of the host. For a rank on a CPU that is its device's; for a GPU it is the
    part of its node's that the inventory names, and where it names none, they fit.
    """
    needs = rank_bytes_of(config, plan, replace(workload, copies=False))
    sizes = [
        copy_bytes(Parameters.of(held_by(config, plan.share(seat))), workload, plan.replicas)
        for seat in plan.seats.of_replica(0)
    ]
    taken = tuple(
        SLOTS * (own + peer) for own, peer in zip(sizes, _peers(plan, sizes), strict=True)
    )
    used = [need.host or need.total for need in needs]
    known = {device.name: device for device in inventory.devices}
    named = [plan.rank(seat).devices for seat in plan.seats.of_replica(0)]
    limits = [
        _limit([known.get(name) or inventory.device(name) for name in names], workload)
        for names in named
    ]
    short = tuple(
        0 if limit is None else max(0, own + more - limit)
        for own, more, limit in zip(used, taken, limits, strict=True)
    )
    return CopyRoom(taken, short)


def _peers(plan: Plan, sizes: list[int]) -> Iterator[int]:
    """Yield for each rank of a replica the largest copy of any other rank, 0 where it is alone."""
    for rank in range(len(sizes)):
        others = sizes if plan.replicas > 1 else sizes[:rank] + sizes[rank + 1 :]
        yield max(others, default=0)


def _limit(devices: Sequence[Device], workload: Workload) -> int | None:
    """Return the memory of the host that the devices of a rank have, the least of the replicas."""
    if not workload.gpus:
        return min(device.memory_bytes for device in devices)
    return min((device.host_bytes for device in devices if device.host_bytes), default=None)
