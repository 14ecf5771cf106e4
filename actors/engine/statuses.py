"""What the statuses of all ranks say together. Decisions alone: nothing here asks or commands."""

from collections.abc import Collection, Sequence

from actors.commands import RankReport, RankStatus

GRACE_SECONDS = 1.0
"""All ranks begin and end a step at nearly the same time. A rank still idle after this long, while
others are inside the step, never received the command."""

Statuses = Sequence[RankStatus]
"""One of every rank, in the order of ranks."""


def built_for(statuses: Collection[RankStatus], replicas: int) -> bool:
    """Tell whether every rank was built from a plan with so many replicas."""
    return all(rank.built and rank.replicas == replicas for rank in statuses)


def epoch_of(statuses: Collection[RankStatus]) -> int:
    """Return the newest epoch that any rank has joined; 0 before the first."""
    return max((rank.epoch for rank in statuses), default=0)


def steps_done(statuses: Statuses) -> int:
    """Return how many steps every rank has done."""
    return min(rank.step for rank in statuses)


def together(statuses: Statuses, epoch: int) -> bool:
    """Tell whether every rank is in the process groups of an epoch."""
    return all(rank.joined and rank.epoch == epoch for rank in statuses)


def can_be_driven(statuses: Statuses) -> bool:
    """Tell whether a new driver may command the next step as things stand.

    All ranks are in one epoch, in the same step or the next, and none holds a snapshot that a
    driver before has not had written.
    """
    steps = [rank.step for rank in statuses]
    saving = any(rank.saving is not None for rank in statuses)
    return together(statuses, epoch_of(statuses)) and not saving and max(steps) - min(steps) <= 1


def reports_of_last_step(statuses: Statuses) -> list[RankReport] | None:
    """Return the reports of the last step, or None unless every rank has one of the same step."""
    reports = [rank.report for rank in statuses if rank.report is not None]
    if len(reports) < len(statuses) or len({report.step for report in reports}) > 1:
        return None
    return reports


class Settling:
    """Decides how long ranks in the middle of a step are left to end it.

    A step that all ranks are in ends by itself. One that some were never told of cannot: they are
    left ``GRACE_SECONDS``, and all together no more than ``seconds``.
    """

    def __init__(self, now: float, seconds: float) -> None:
        self._began = self._all_busy = now
        self._seconds = seconds

    def waits(self, statuses: Statuses, now: float) -> bool:
        """Tell whether to wait and look again; times are in seconds of any one clock."""
        if not any(rank.busy for rank in statuses) or not all(rank.joined for rank in statuses):
            return False
        if all(rank.busy for rank in statuses):
            self._all_busy = now
        return now - self._began <= self._seconds and now - self._all_busy <= GRACE_SECONDS
