"""Experts that change their ranks while requests are answered, where their load asks for it.

Now and then the ranks are asked which experts the batches have used. Where the slowest rank of a
gang would have less to do elsewhere, ranks make the experts that come to them beside the batches,
and take them between two batches. Nothing here waits.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from moe.errors import CheckpointError, OutOfMemory, StorageError
from moe.planning.plan.plan import Plan

Loads = Mapping[int, tuple[int, ...]]
"""The rows of each expert by layer."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rebalance:
    """How experts are placed: every so many ``seconds`` by the load of that time.

    ``better`` returns a plan whose experts suit a load, or None where that gains too little.
    ``note`` is told each load with the plan under which it was measured, and each plan that is
    taken.
    """

    seconds: float
    better: Callable[[Plan, Loads], Plan | None]
    note: Callable[[Plan, Loads, bool], None] = lambda plan, loads, moved: None


class Placing(Protocol):
    """An engine whose ranks may hold other experts while they answer."""

    @property
    def plan(self) -> Plan:
        """Who holds what now."""

    def ask_loads(self) -> Any:
        """Ask which experts the batches begun so far have used, and return at once."""

    def loads(self, asked: Any) -> Mapping[int, tuple[int, ...]]:
        """Wait for the rows of each expert by layer, since they were asked for the last time."""

    def fetch(self, plan: Plan) -> Any:
        """Begin to make the experts of a plan that differs in nothing else; return at once."""

    def place(self, move: Any) -> None:
        """Have all ranks take the experts between two batches; CheckpointError where one cannot."""


class Rebalancing:
    """Measures and moves, unless ``how`` is None; only one thread may call it."""

    def __init__(self, how: Rebalance | None) -> None:
        self._how = how
        self._due = 0.0
        self._asked: Any = None
        self._move: Any = None

    def turn(self, engine: Placing, now: float) -> None:
        """Do the next step, if it can be done; raises what has gone wrong with the engine.

        ``now`` is in seconds of any clock.
        """
        if self._how is None:
            return
        if self._move is not None:
            self._take(engine)
        elif self._asked is not None:
            self._decide(engine, self._how)
        elif not self._due:
            self._due = now + self._how.seconds
        elif now >= self._due:
            self._asked, self._due = engine.ask_loads(), now + self._how.seconds

    @property
    def moving(self) -> bool:
        """Whether ranks are making experts, for the adapters that they had then."""
        return self._move is not None

    def restart(self) -> None:
        """Forget what ranks were asked: they are others now."""
        self._asked = self._move = None

    def _decide(self, engine: Placing, how: Rebalance) -> None:
        if not self._asked.over:
            return
        asked, self._asked = self._asked, None
        loads = engine.loads(asked)
        if not any(map(sum, loads.values())):
            return
        plan = how.better(engine.plan, loads)
        how.note(engine.plan, loads, plan is not None)
        if plan is not None:
            self._move = engine.fetch(plan)

    def _take(self, engine: Placing) -> None:
        if not self._move.over:
            return
        move, self._move = self._move, None
        try:
            engine.place(move)
        except (CheckpointError, StorageError) as error:
            _LOG.warning("experts stay where they are: %s", error)
        except OutOfMemory as error:
            _LOG.warning("experts stay where they are, from now on: %s", error)
            self._how = None
        else:
            _LOG.info("experts have moved between ranks, by the load of the last requests")
