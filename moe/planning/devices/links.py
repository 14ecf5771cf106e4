"""Links between devices: bandwidth and latency, within a node and between nodes.

[[links]] nodes = ["a"]               # within node a; ["*"] within any node bytes_per_second =
1.5e9 latency_seconds = 1e-4

[[links]] nodes = ["a", "b"]          # between two nodes, both directions; ["*", "*"] between any
two bytes_per_second = 1.25e9   # 0: these nodes cannot communicate
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from moe.errors import PlanError
from moe.planning import tables

ANY = "*"


@dataclass(frozen=True, slots=True)
class Link:
    """A link within a node, if one node is named, or between two nodes; ``*`` is any node.

    ``bytes_per_second`` is the bandwidth of one tensor in one direction; 0 means no connection.
    """

    nodes: tuple[str, ...]
    bytes_per_second: float
    latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        if len(self.nodes) not in (1, 2) or (ANY in self.nodes and self.nodes[-1] != ANY):
            raise PlanError(
                f"a link names nodes {list(self.nodes)}; name one node (within it) or two "
                '(between them), "*" for any, after a name'
            )
        for key in ("bytes_per_second", "latency_seconds"):
            value = getattr(self, key)
            if not (isfinite(value) and value >= 0):
                raise PlanError(
                    f"the link of {list(self.nodes)} has {key} = {value}; "
                    "give a finite number, 0 or above"
                )

    def seconds(self, size: float) -> float:
        """Return the seconds to send a tensor of ``size`` bytes; infinite without a connection."""
        if self.bytes_per_second == 0:
            return inf
        return self.latency_seconds + size / self.bytes_per_second

    def all_reduce_seconds(self, size: float, ranks: int) -> float:
        """Return the seconds of a ring all-reduce over ``ranks`` ranks of ``size`` bytes each."""
        if ranks < 2:
            return 0.0
        if self.bytes_per_second == 0:
            return inf
        steps = 2 * (ranks - 1)
        return steps * (self.latency_seconds + size / ranks / self.bytes_per_second)


LOOPBACK = Link((ANY,), 1.5e9, 1e-4)
"""Between processes of one machine over gloo, as measured here."""

NETWORK = Link((ANY, ANY), 1.25e9, 2e-4)
"""Between machines where no link is given: 10 Gb/s Ethernet, an assumption."""


def most_particular(links: tuple[Link, ...], one: str, other: str) -> Link | None:
    """Return the most specific link listed for two nodes: names take precedence over ``*``."""
    wanted = (
        [(one,), (ANY,)]
        if one == other
        else [(one, other), (other, one), (one, ANY), (other, ANY), (ANY, ANY)]
    )
    for nodes in wanted:
        for link in links:
            if link.nodes == nodes:
                return link
    return None


def slowest(links: list[Link]) -> Link:
    """Return a link with the lowest bandwidth and the highest latency of several."""
    return Link(
        (ANY,),
        min(link.bytes_per_second for link in links),
        max(link.latency_seconds for link in links),
    )


def quickest(links: list[Link]) -> Link:
    """Return a link with the highest bandwidth and the lowest latency of several."""
    return Link(
        (ANY,),
        max(link.bytes_per_second for link in links),
        min(link.latency_seconds for link in links),
    )


def from_table(table: Mapping[str, Any]) -> Link:
    """Return one link, read strictly."""
    label = f"link of {table.get('nodes', 'no nodes')}"
    tables.check_keys(label, table, ("nodes", "bytes_per_second"), ("latency_seconds",))
    return Link(
        tables.texts(label, "nodes", table["nodes"]),
        tables.number(label, "bytes_per_second", table["bytes_per_second"]),
        tables.number(label, "latency_seconds", table.get("latency_seconds", 0.0)),
    )
