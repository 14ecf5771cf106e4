"""The faults that a run is asked to suffer: whether it may, what they name, what became of them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from actors.faults.armed import NO_FAULTS, FaultPlan
from cluster.strike import strike
from moe.config.fault import BOUNDARY_PHASES, Fault
from moe.config.run import RunConfig
from moe.errors import ConfigError
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat, Seats
from moe.storage import remove_tree

_MARKS = ".faults-"


def check_faults(run: RunConfig, faults: Sequence[Fault], done: int) -> None:
    """Raise ConfigError for faults that the run file does not allow, or of steps that it has not.

    ``done`` is the number of steps that the run has done before.
    """
    if faults and not run.elastic.faults:
        raise ConfigError(
            f"--fault {faults[0]}: the run file does not allow faults; set elastic.faults = true "
            "in a run that may be disturbed, or leave the option out"
        )
    for fault in faults:
        if fault.phase == "copy" and not run.elastic.copies:
            raise ConfigError(
                f"--fault {fault}: the run makes no copies, because elastic.copy_every is 0; set "
                "elastic.copy_every, or choose another phase"
            )
        last = run.train.steps - (0 if fault.phase in BOUNDARY_PHASES else 1)
        if not done <= fault.step <= last:
            raise ConfigError(
                f"--fault {fault}: step counts the steps done before it, here from {done} to "
                f"{last} (train.steps is {run.train.steps}); give a step between the two"
            )


def check_ranks(faults: Sequence[Fault], plan: Plan) -> None:
    """Raise ConfigError for faults of ranks that the plan has not.

    A change of plan may add ranks, so one that happens in it may name any.
    """
    ranks = plan.replicas * plan.ranks
    for fault in faults:
        if fault.rank >= ranks and fault.phase != "resize":
            raise ConfigError(
                f"--fault {fault}: the plan has the ranks 0 to {ranks - 1}; name one of them"
            )


@contextmanager
def armed(
    run: RunConfig, faults: Sequence[Fault], tell: Callable[[str], object]
) -> Iterator[FaultPlan]:
    """Yield the faults with a place for their marks; tell them now, at the end what remained.

    Marks that a command line left behind which was killed are removed.
    """
    if run.elastic.faults:
        for old in run.checkpoint.location.glob(f"{_MARKS}*"):
            remove_tree(old)
    if not faults:
        yield NO_FAULTS
        return
    marks = run.checkpoint.location / f"{_MARKS}{time.time_ns()}"
    plan = FaultPlan(tuple(faults), marks)
    tell(f"faults to come: {_listed(faults)}")
    plan.open()
    try:
        yield plan
        spent = plan.spent()
        remained = [each.fault for each in plan.armed if each not in spent]
        if remained:
            tell(f"faults that did not happen: {_listed(remained)}")
    finally:
        plan.close()


def strike_nodes(plan: FaultPlan, step: int, seats: Seats, nodes: Mapping[Seat, str]) -> None:
    """Have the faults of nodes happen that are due before a step; the driver calls this.

    ``nodes`` is Ray's number of the node of each seat. A rank that has no node now, or that a
    smaller plan has not, keeps its fault for later.
    """
    for each in plan.due(step):
        rank = each.fault.rank
        node = nodes.get(seats.seat(rank)) if rank < len(seats) else None
        if node is not None and each.take():
            strike(each.fault, node)


def _listed(faults: Sequence[Fault]) -> str:
    return "; ".join(map(str, faults))
