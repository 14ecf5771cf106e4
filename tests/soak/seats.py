"""Who sits where in a run that goes on, asked from outside and without a trace in its actors."""

from typing import Any, NamedTuple

import ray
from ray._private.state import actors as actor_table
from ray.exceptions import RayError

from moe.planning.plan.seats import Seat


class Sitting(NamedTuple):
    """The process of a rank and Ray's number of its node."""

    pid: int
    node: str


def sitting(run: str, seconds: float = 2.0) -> dict[Seat, Sitting]:
    """Return the process on each seat of a run; seats whose rank does not answer are left out."""
    nodes = {
        str(row["Name"]): str(row["Address"]["NodeID"])
        for row in actor_table().values()
        if row["State"] == "ALIVE" and row["Name"].startswith(f"{run}/rank-")
    }
    asked = {}
    for name in nodes:
        try:
            asked[ray.get_actor(name).status.remote()] = name
        except ValueError:
            continue  # it died a moment ago
    done = ray.wait([*asked], num_returns=len(asked), timeout=seconds)[0] if asked else []
    found: dict[Seat, Sitting] = {}
    for answer in done:
        status = _said(answer)
        if status is not None and status.built and status.seat is not None:
            found[status.seat] = Sitting(status.pid, nodes[asked[answer]])
    return dict(sorted(found.items()))


def _said(answer: Any) -> Any:
    try:
        return ray.get(answer)
    except RayError:
        return None
