"""A new actor of a rank, with its name."""

from typing import Any, NamedTuple, cast

import ray
from ray.actor import ActorHandle

from actors.crew.orphans import leave
from actors.rank.actor import LIFE, RankActor
from actors.rank.queues import THREADS


class Named(NamedTuple):
    """An actor and the name under which it is found."""

    name: str
    actor: ActorHandle[RankActor]


def new_actor(name: str, detached: bool, **options: Any) -> Named:
    """Ask Ray for an actor with ``options``, and do not wait for it.

    Ray does not start it again when it dies: what it held would be lost.
    """
    lifetime = "detached" if detached else None
    remote = _remote(RankActor).options(name=name, lifetime=lifetime, max_restarts=0, **options)
    return Named(name, cast("ActorHandle[RankActor]", remote.remote(leave)))


def _remote(actor: type[RankActor]) -> Any:
    """Ray types ``concurrency_groups`` as a decorator alone, which would hide the methods."""
    return ray.remote(concurrency_groups={**THREADS, LIFE: 1})(actor)  # type: ignore[call-overload]
