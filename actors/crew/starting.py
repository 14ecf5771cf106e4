"""The start of actors in their reservations, all at once; undone whole if any part fails."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.crew.life import RankLife
from actors.crew.named import Named, new_actor
from actors.crew.nodes.bundles import bundle
from actors.crew.nodes.nodes import living_nodes
from actors.crew.reservation import Reservation
from actors.crew.spares import Spares
from actors.rank.actor import Whereabouts
from moe.errors import ClusterBusy, LaunchError, RankLost
from moe.planning.devices.inventory import CPU
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

_LOOK_SECONDS = 0.5
"""How often to see whether the nodes of actors that start are still there."""


@dataclass(frozen=True, slots=True)
class Starting:
    """What actors are started with: who they are, how long they live, how long they may take."""

    plan: Plan
    detached: bool
    deadline: float
    spares: Spares

    def lives(self, places: Mapping[Seat, Reservation]) -> dict[Seat, RankLife]:
        """Start an actor in each reservation and wait until all have sat down.

        On failure those that were started are ended; the reservations stay. ClusterBusy where a
        node left the cluster meanwhile.
        """
        actors = dict[Seat, Named]()
        try:
            for seat, place in places.items():
                actors[seat] = self._actor(seat, place)
            asked = [self._sit(seat, actors[seat], places[seat]) for seat in actors]
            self._await(asked, {place.node for place in places.values()})
            sitting: list[Whereabouts] = ray.get(asked)
        except BaseException:
            for named in actors.values():
                ray.kill(named.actor, no_restart=True)
            raise
        return {
            seat: RankLife(*named, places[seat], where)
            for (seat, named), where in zip(actors.items(), sitting, strict=True)
        }

    def _actor(self, seat: Seat, place: Reservation) -> Named:
        """Return a warm process for a seat, or an actor that takes all of its bundle.

        A warm process holds nothing by itself: the reservation that it sits in keeps what it uses
        from others. It must be told its GPU, which only an actor before it in the same reservation
        can have said. No actor asks for the mark of a GPU's kind: the reservation has it.
        """
        own = self.plan.rank(seat)
        if own.kind == CPU or place.devices is not None:
            spare = self.spares.take(place.node)
            if spare is not None:
                return spare
        resources = bundle(own)
        return new_actor(
            place.name,
            self.detached,
            num_cpus=resources["CPU"],
            num_gpus=resources.get("GPU", 0.0),
            memory=resources.get("memory"),
            resources=dict(own.resources),
            scheduling_strategy=PlacementGroupSchedulingStrategy(place.group, 0),
        )

    def _sit(self, seat: Seat, named: Named, place: Reservation) -> Any:
        """Have an actor sit down; one that Ray started in the reservation sees its GPU already."""
        warm = named.name != place.name and self.plan.rank(seat).kind != CPU
        devices = place.devices if warm else None
        return named.actor.sit.remote(self.plan.seats.rank(seat), place.name, devices)

    def _await(self, asked: list[Any], nodes: set[str]) -> None:
        waiting = asked
        while waiting:
            left = max(self.deadline - time.monotonic(), 0.0)
            done, waiting = ray.wait(waiting, timeout=min(left, _LOOK_SECONDS))
            _check(done)
            if waiting and not nodes <= living_nodes():
                raise ClusterBusy("a node left the cluster while actors started on it; try again")
            if waiting and not left:
                raise LaunchError(
                    f"{len(asked)} actors did not all start in time; look at their logs on the Ray "
                    "dashboard, or raise cluster.launch_seconds"
                )


def _check(answers: list[Any]) -> None:
    """Raise what became of an actor that could not start."""
    try:
        ray.get(answers)
    except ActorDiedError as error:
        raise RankLost(f"an actor died while starting: {error}") from error
    except RayError as error:
        raise LaunchError(f"an actor could not start: {error}") from error
