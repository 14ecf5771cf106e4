"""How the actors of a run are named, found by name, and ended. No torch, so the board is light."""

import time

import ray
from ray.util import list_named_actors

from actors.crew.reservation import groups_of, release
from moe.errors import ClusterError, LaunchError


def actor_name(run: str, rank: int) -> str:
    """Return the name under which a global rank is found."""
    return f"{run}/rank-{rank}"


def running(run: str) -> bool:
    """Tell whether any actor of a run is on the cluster."""
    return any(name.startswith(f"{run}/rank-") for name in list_named_actors())


def name_taken(run: str) -> LaunchError:
    """Return the error for a second run of the same name."""
    return LaunchError(
        f"a run named {run} is on this cluster already; end it with `raymoe stop {run}` or choose "
        "another name"
    )


def remove(run: str, seconds: float = 30.0) -> None:
    """End every actor and placement group of a run and wait until they are gone."""
    for name in list_named_actors():
        if name.startswith(f"{run}/rank-"):
            _kill(name)
    release(run)
    deadline = time.monotonic() + seconds
    while running(run) or groups_of(run):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"the actors of {run} did not end within {seconds:g} s; look at the Ray dashboard, "
                f"then try `raymoe stop {run}`"
            )
        time.sleep(0.05)


def _kill(name: str) -> None:
    try:
        ray.kill(ray.get_actor(name), no_restart=True)
    except ValueError:
        return
