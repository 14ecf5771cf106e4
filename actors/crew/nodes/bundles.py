"""What the ranks of a plan ask of a cluster: a bundle each, those of a gang on one node."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby

from actors.crew.nodes.room import Amounts
from moe.planning.devices.inventory import CPU
from moe.planning.devices.kinds import ray_word
from moe.planning.devices.labels import all_take
from moe.planning.devices.naming import node_of
from moe.planning.plan.plan import Plan, RankPlan
from moe.planning.plan.seats import Seat

KIND = "accelerator_type:"
"""Ray's resource of a node with GPUs of a kind, 1 whatever their number; asked for in parts."""


@dataclass(frozen=True, slots=True)
class Gang:
    """Ranks of one stage of one replica, all or some; ``numbers`` are their global ranks."""

    replica: int
    stage: int
    numbers: tuple[int, ...]
    ranks: tuple[RankPlan, ...]

    @property
    def place(self) -> tuple[int, int]:
        """The replica and stage, which name the gang."""
        return self.replica, self.stage

    @property
    def bundles(self) -> tuple[dict[str, float], ...]:
        """What each rank reserves."""
        return tuple(bundle(rank) for rank in self.ranks)

    @property
    def need(self) -> Amounts:
        """What all ranks reserve together."""
        return total(self.bundles)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that the plan's devices are named after: those of most ranks; or none."""
        named = (node_of(rank.devices[self.replica]) for rank in self.ranks)
        counts = Counter(node for node in named if node is not None)
        most = max(counts.values(), default=0)
        return tuple(node for node, count in counts.items() if count == most)

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Tell whether every rank may be on a node with these labels."""
        return all(takes(rank, labels) for rank in self.ranks)

    def __str__(self) -> str:
        first, last = self.numbers[0], self.numbers[-1]
        ranks = f"rank {last}" if last == first else f"ranks {first} to {last}"
        return f"the gang of replica {self.replica}, stage {self.stage} ({ranks})"


def gangs(plan: Plan, seats: Collection[Seat] | None = None) -> tuple[Gang, ...]:
    """Return the gangs of all replicas, replica by replica; of ``seats`` alone where given."""
    there = [seat for seat in plan.seats if seats is None or seat in seats]
    found = []
    for (replica, stage), own in groupby(there, lambda seat: (seat.replica, seat.stage)):
        members = tuple(own)
        numbers = tuple(plan.seats.rank(seat) for seat in members)
        found.append(Gang(replica, stage, numbers, tuple(map(plan.rank, members))))
    return tuple(found)


def bundle(rank: RankPlan) -> dict[str, float]:
    """Return the resources one rank reserves; a GPU is on a node that Ray marks with its word."""
    resources = {"CPU": float(rank.threads)}
    if rank.kind != CPU:
        resources |= {"GPU": 1.0, f"{KIND}{rank.accelerator or ray_word(rank.kind)}": 0.001}
    if rank.memory_bytes:
        resources["memory"] = float(rank.memory_bytes)
    return resources | dict(rank.resources)


def total(bundles: tuple[Amounts, ...]) -> dict[str, float]:
    """Return the sum of bundles."""
    names = dict.fromkeys(name for each in bundles for name in each)
    return {name: sum(each.get(name, 0.0) for each in bundles) for name in names}


def takes(rank: RankPlan, labels: Mapping[str, str]) -> bool:
    """Tell whether a rank may be on a node with these labels."""
    return all_take(rank.labels, labels)
