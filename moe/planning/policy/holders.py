"""Who holds whose copy: each rank that of one other, on another node wherever the numbers allow it.

The seats stand in a ring, those of one node side by side, and each copy goes the same distance
around it. Half of the ring is taken where no node has more than half of the seats: then every copy
leaves its node, and ranks that are often lost together (a gang, neighbours) are far from their
holders. Where a node has more, the distance is the number of seats elsewhere: each of these then
holds a copy of that node and has its own there, and no other order moves more copies off it.

    nodes a a b b:    the copies of a go to b, those of b to a
    nodes a a a b:    one copy of a goes to b, that of b to a, and two stay on a
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import TypeVar

Place = TypeVar("Place", bound=Hashable)


def holders(nodes: Mapping[Place, str]) -> Mapping[Place, Place] | None:
    """Return the holder of each seat's copy, by the node of each seat; None for a single seat.

    The answer follows the order of the seats given: give them in the order of their ranks. No seat
    holds its own copy, and every seat holds one.
    """
    if len(nodes) < 2:
        return None
    sizes = Counter(nodes.values())
    first = {node: index for index, node in enumerate(sizes)}
    ring = sorted(nodes, key=lambda seat: first[nodes[seat]])
    elsewhere = len(ring) - max(sizes.values())
    distance = min(len(ring) // 2, elsewhere) or len(ring) // 2
    return {seat: ring[(index + distance) % len(ring)] for index, seat in enumerate(ring)}
