"""How many replicas there should be: a policy for Ray Serve, by the tokens that wait.

Ray Serve asks it ten times a second in its controller, and carries out what it says once that has
been so for as long as its options ask. Ray sends the source of this file there, so it imports
nothing of this project.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

WAITING, LOAD = "waiting_tokens", "load"
"""What replicas report, under the names in Ray's metrics."""

EASY_LOAD = 0.5
"""The part of their room that replicas may use, where one of them is to go, after it has gone."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica says: tokens that wait for room in it, and the part of its room in use."""

    waiting_tokens: float
    load: float


def wanted(reports: Sequence[Report], target: int, queued: float, tokens: int) -> int:
    """Return how many replicas there should be, where ``target`` should be there by now.

    ``reports`` are of those that run. Of the tokens that wait, each should have ``tokens`` at the
    most; those that start already will take their part. One goes where nothing waits and the others
    have room for what it does. ``queued`` requests wait for any replica at all: with them there is
    one at the least, and where nobody has anything to do there is none.
    """
    waiting = sum(report.waiting_tokens for report in reports)
    excess = waiting - tokens * len(reports)
    if excess > 0:
        return max(target, len(reports) + ceil(excess / tokens))
    busy = sum(report.load for report in reports)
    if queued > 0:
        return max(target, 1)
    if len(reports) != target or waiting:
        return target
    if not busy:
        return 0
    return target - 1 if target > 1 and busy <= (target - 1) * EASY_LOAD else target


class TokensWaiting:
    """The policy: ``tokens`` may wait for each replica."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return how many replicas are wanted; Ray keeps within its bounds and delays."""
        reports = reported(context.raw_metrics, context.running_replicas)
        queued, target = context.total_queued_requests, context.target_num_replicas
        return wanted(reports, target, queued, self._tokens), {}


def reported(
    metrics: Mapping[str, Mapping[Any, Sequence[Any]]], replicas: Iterable[Any]
) -> list[Report]:
    """Return the newest report of each replica that has made one."""
    waiting, load = metrics.get(WAITING, {}), metrics.get(LOAD, {})
    return [
        Report(waiting[each][-1].value, load[each][-1].value)
        for each in replicas
        if waiting.get(each) and load.get(each)
    ]
