"""What the stages of a pipeline send at least: to their neighbours, and over the replicas.

Hidden states of a micro-batch hop from gang to gang, forward, and their gradients hop back. A hop
is near where every member of a gang finds its counterpart on its own node. Only so many gangs in a
row can be near each other: a node that holds 2 gangs cannot hold 3. So among n gangs in a row at
least ceil(n / 2) - 1 of the n - 1 hops are far.

Example: 6 stages, gangs of 4 on nodes of 8 devices, 1 ms a near hop and 60 ms a far one. At most 2
gangs are together, so at least ceil(6 / 2) - 1 = 2 of the 5 hops are far, and a micro-batch needs
2 x 60 + 3 x 1 = 123 ms each way. A stage with neighbours on both sides has at least one far hop:
61 ms of each micro-batch, both ways, are not its own work.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement

from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import ANY, Link, quickest
from moe.planning.stages.units import Gang


@dataclass(frozen=True, slots=True)
class Quickest:
    """Links as quick as any within a node and between nodes; ``devices`` is the most on a node."""

    within: Link
    between: Link
    devices: int

    @property
    def anywhere(self) -> Link:
        """A link as quick as any."""
        return quickest([self.within, self.between])

    def of_sums(self, gang: int, replicas: int, runs: "Runs") -> Link:
        """Return a link as quick as any over which every stage could sum its gradients.

        Each member sums with those in its place in the other replicas. Where one gang of a stage is
        on one node, another gang that is not there has some member sum between nodes. Where all
        gangs of a stage are on several nodes, members of one place may still be on one: that takes
        as many gangs with a device there.
        """
        together = replicas <= min(runs.spread, runs.scattered)
        far = gang * replicas > self.devices and not together
        return self.between if far else self.anywhere


def quickest_links(inventory: Inventory) -> Quickest:
    """Return the quickest links of an inventory; on a single node all links are within it."""
    nodes = list(inventory.nodes().values())
    within = quickest([inventory.link(*pair) for node in nodes for pair in _unlike_pairs(node)])
    named = any(set(link.nodes) - {ANY} for link in inventory.links if len(link.nodes) == 2)
    firsts = [node[0] for node in (nodes if named else nodes[:2])]
    between = [inventory.link(*pair) for pair in combinations(firsts, 2)]
    return Quickest(within, quickest(between) if between else within, max(map(len, nodes)))


def _unlike_pairs(node: Sequence[Device]) -> Iterator[tuple[Device, Device]]:
    """Yield pairs of devices of one node, one for each pair of kinds."""
    kinds = {device.kind: device for device in node}.values()
    return combinations_with_replacement(kinds, 2)


@dataclass(frozen=True, slots=True)
class Runs:
    """How many gangs in a row can be near each other: those on one node, and those on several.

    Every replica is a row of gangs; in some replica at most ``spread`` of them are on several.
    """

    whole: int
    scattered: int
    spread: int

    def shared(self, replicas: int) -> "Runs":
        """Return the runs of one of so many replicas, which share the gangs."""
        return replace(self, spread=self.spread // replicas)

    def far(self, stages: int) -> int:
        """Return how many of the hops between so many gangs in a row are far at least."""
        spread = min(stages, self.spread)
        runs = (stages - spread) * self.scattered + spread * self.whole
        return -(-runs // (self.whole * self.scattered)) - 1

    @property
    def longest(self) -> int:
        """The most gangs in a row that can be near each other."""
        return max(self.whole, self.scattered if self.spread else 1)


def runs_of(gangs: Sequence[Gang]) -> Runs:
    """Return the runs of gangs that a pipeline of one replica can have.

    A gang on one node is near others on that node. One that is spread over nodes is near those
    that have a member wherever it has one, so each of them takes a device of the node.
    """
    whole: Counter[str] = Counter()
    scattered: Counter[str] = Counter()
    spread = 0
    for gang in gangs:
        nodes = [device.node for device in gang]
        if len(set(nodes)) == 1:
            whole[nodes[0]] += 1
        else:
            scattered.update(nodes)
            spread += 1
    most = max([1, *whole.values()])
    return Runs(most, max([most, *scattered.values()]), spread)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Seconds of a ``near`` hop and of a ``far`` one, one way.

    A micro-batch goes ``ways`` ways: 2 in training. Gradients are summed over ``replicas`` through
    ``link``, ``exchanged`` bytes on a rank, each way, for each parameter that its gang holds.
    """

    near: float
    far: float
    runs: Runs
    ways: int
    link: Link
    replicas: int
    exchanged: float

    def hops(self, stages: int) -> float:
        """Return the seconds of the hops between so many stages in a row, one way."""
        return self._seconds(self.runs.far(stages), stages - 1) if stages > 1 else 0.0

    def all_hops(self, stages: int) -> float:
        """Return the seconds of the hops between so many stages in a row, all ways."""
        return self.ways * self.hops(stages)

    def wait(self, stage: int, stages: int) -> float:
        """Return the seconds of a micro-batch that a stage in training waits for neighbours."""
        hops = (stage > 0) + (stage < stages - 1)
        return self._seconds(max(0, hops + 1 - self.runs.longest), hops)

    def reduction(self, held: float) -> float:
        """Return the seconds in which a gang that holds so many parameters sums its gradients."""
        return self.link.all_reduce_seconds(held * self.exchanged, self.replicas)

    def _seconds(self, far: int, hops: int) -> float:
        near = hops - far  # of none, no link is asked for: it may be infinitely slow
        return (far * self.far if far else 0.0) + (near * self.near if near else 0.0)


NO_TRAFFIC = Traffic(0.0, 0.0, Runs(1, 1, 0), 1, Link((ANY,), 1.0), 1, 0.0)


def traffic(
    config: ModelConfig,
    workload: Workload,
    ranks: tuple[int, int],
    runs: Runs,
    links: Quickest,
) -> Traffic:
    """Return what the stages of a pipeline send; ``ranks`` are the gang size and the replicas.

    ``runs`` are those of all gangs of this size.
    """
    size = workload.tokens * config.hidden_size * workload.numerics.message
    near, far = links.anywhere.seconds(size), links.between.seconds(size)
    gang, replicas = ranks
    return Traffic(
        near=near,
        far=max(near, far),
        runs=runs.shared(replicas),
        ways=2 if workload.training else 1,
        link=links.of_sums(gang, replicas, runs),
        replicas=replicas,
        exchanged=workload.exchanged / gang,
    )
