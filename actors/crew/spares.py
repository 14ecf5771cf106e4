"""Warm processes: actors of a run that have imported what a rank needs, and hold nothing.

A rank that is started anew spends most of its time on imports; one that takes over a warm process
does not. A spare asks Ray for no resources: it waits, and when it becomes a rank the reservation of
the seat keeps from others what it uses. It ends with the actors of its run.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.calls import Answer
from actors.crew.named import Named, new_actor
from actors.crew.reservation import rank_name, unused


class Spares:
    """The warm processes of a run by node, as far as this process has started them."""

    def __init__(self, run: str, detached: bool) -> None:
        self._run = run
        self._detached = detached
        self._waiting: dict[str, list[_Spare]] = {}

    def keep(self, nodes: Iterable[str], count: int) -> None:
        """Have ``count`` of them on each node, warm or on the way; end those elsewhere.

        Call again whenever some were taken, or nodes came or went. Does not wait.
        """
        wanted = {*nodes}
        for node in {*self._waiting} - wanted:
            _end(self._waiting.pop(node))
        lacking: list[str] = []
        for node in sorted(wanted):
            living = [spare for spare in self._waiting.get(node, []) if not spare.life.done()]
            _end(living[count:])
            self._waiting[node] = living[:count]
            lacking += [node] * (count - len(living))
        for number, node in enumerate(lacking, unused(self._run) if lacking else 0):
            self._waiting[node].append(self._started(rank_name(self._run, number), node))

    def take(self, node: str) -> Named | None:
        """Return a warm process of a node, for good; None where there is none."""
        waiting = self._waiting.get(node, [])
        for spare in waiting:
            if spare.ready:
                waiting.remove(spare)
                return spare.named
        return None

    def ready(self) -> int:
        """Return how many can be taken now."""
        return sum(spare.ready for waiting in self._waiting.values() for spare in waiting)

    def _started(self, name: str, node: str) -> "_Spare":
        """Start a process on a node, in no reservation."""
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        named = new_actor(name, self._detached, num_cpus=0, scheduling_strategy=here)
        warm: Answer = named.actor.whereabouts.remote().future()
        return _Spare(named, warm, named.actor.live.remote().future())


@dataclass(frozen=True, slots=True)
class _Spare:
    """A process, its first answer, which comes when it has imported all, and its end."""

    named: Named
    warm: Answer
    life: Answer

    @property
    def ready(self) -> bool:
        return self.warm.done() and not self.life.done()


def _end(spares: Iterable[_Spare]) -> None:
    for spare in spares:
        ray.kill(spare.named.actor, no_restart=True)
