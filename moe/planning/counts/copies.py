"""Bytes of the copies from which ranks that are lost come back (``actors.state.copies``).

A copy has what a rank alone holds: of the slices that its replica owns the float32 values, which
are masters in bf16, and both moments. So it takes 12 bytes a parameter in any precision, divided
over the replicas. A rank has two slots for its own copies and two for those of one peer.

Who holds whose copy is decided while the run goes on, by the nodes that are there. A rank is
therefore counted as if its peer were its like. Over all ranks the sum is exact, for each holds the
copies of one other; what a single rank needs at most says ``moe.planning.prediction.copies``.
"""

from moe.planning.counts.work import Parameters
from moe.planning.counts.workload import Workload

SLOTS = 2
"""Copies of one rank that are kept in one place: of the newest whole boundary and of the next; the
same as in ``actors.state.copies``."""


_EACH = 12
"""Bytes of a parameter: its float32 value and both moments."""


def copy_bytes(parameters: Parameters, workload: Workload, replicas: int) -> int:
    """Return the bytes of one copy of a rank with so many parameters; none is of frozen ones.

    A balance bias, which no replica owns alone, counts as if it were trained.
    """
    return -(-_EACH * parameters.changing.total // (replicas if workload.zero else 1))


def all_copies(parameters: Parameters, workload: Workload, replicas: int) -> int:
    """Return the bytes of all copies on a rank whose peer is its like; 0 where none are kept."""
    if not (workload.training and workload.copies):
        return 0
    return 2 * SLOTS * copy_bytes(parameters, workload, replicas)
