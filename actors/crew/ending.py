"""How the actors of a run are found by name and ended. No torch, so the board is light."""

import time
from collections.abc import Callable

import ray

from actors.crew.reservation import actors_of, groups_of, reservations_of
from moe.errors import ClusterError, LaunchError

END_SECONDS = 30.0
"""Ray ends actors in tenths of a second; a machine that swaps takes longer."""


def running(run: str) -> bool:
    """Tell whether any actor of a run is on the cluster."""
    return bool(actors_of(run))


def name_taken(run: str) -> LaunchError:
    """Return the error for a second run of the same name."""
    return LaunchError(
        f"a run named {run} is on this cluster already; if its command line is gone, take it over "
        f"with --resume; end it with `raymoe stop {run}`; or choose another name"
    )


def everyone(name: str) -> bool:
    """Choose every actor and placement group of a run."""
    return True


def remove(
    run: str, chosen: Callable[[str], bool] = everyone, seconds: float = END_SECONDS
) -> None:
    """End the actors and placement groups of a run whose names are chosen; return when all are
    gone.
    """
    for name in filter(chosen, actors_of(run)):
        _kill(name)
    for name, reservation in reservations_of(run).items():
        if chosen(name):
            reservation.give_back()
    deadline = time.monotonic() + seconds
    while any(map(chosen, (*actors_of(run), *groups_of(run)))):
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
