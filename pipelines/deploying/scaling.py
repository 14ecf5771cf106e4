"""A run on Kubernetes and its groups of pods, resized together: carries out one step at a time.

What is to be done is decided by ``cluster.kube.resizing``, of what is seen; here it is looked, done
and waited. Whatever ends it says what there is, and the same wish goes on from there.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from cluster.kube.api import Api, Refusal
from cluster.kube.kinds import RAYCLUSTER, RAYJOB
from cluster.kube.observed import Observed, observe
from cluster.kube.resizing import Seen, Step, Wanted, left, next_step
from cluster.kube.scale_wish import ScaleWish
from cluster.kube.standing import standing
from cluster.kube.taking import CHANGED, release, take, taken_by
from cluster.kube.troubles import trouble
from cluster.kube.worker_groups import groups_seen, patch_of
from cluster.kuberay.scheduling import KUEUE_LABEL
from cluster.stands import Stands
from moe.errors import ClusterError, DeadlineExceeded

POLL_SECONDS = 2.0

Table = dict[str, Any]
Tell = Callable[[str], object]


class Run(Protocol):
    """The run itself, on its cluster."""

    def stands(self) -> Stands:
        """Return how the run stands."""

    def scale(self, wish: ScaleWish, seconds: float) -> Stands:
        """Have it meet a wish; return how it stands then, or raise ClusterError."""


class Scaling:
    """Resizes the run of a RayJob."""

    def __init__(self, api: Api, namespace: str, job: str, run: Run, tell: Tell) -> None:
        self._api = api
        self._namespace = namespace
        self._job = job
        self._run = run
        self._tell = tell
        self._told = ""

    def carry_out(self, wish: ScaleWish, seconds: float) -> None:
        """Resize until nothing is left to do; DeadlineExceeded after so many seconds.

        ClusterError where the run or the cluster does not allow it. Both say what there is.
        """
        deadline, stands = time.monotonic() + seconds, self._run.stands()
        cluster, seen = self._look(stands)
        wanted = Wanted(str(wish), wish.pods(seen.groups, cluster, stands), wish.met(stands))
        try:
            while (step := next_step(wanted, seen)).what != "done":
                if step.what == "refuse":
                    raise ClusterError(step.words)
                if (still := deadline - time.monotonic()) <= 0:
                    words = step.words or step.what
                    raise DeadlineExceeded(
                        f"not done after {seconds:g} s: {words}; {left(wanted, seen)}"
                    )
                if step.what == "ask":
                    stands, wanted = self._asked(wish, wanted, seen, still)
                elif step.what in ("wait", "look"):
                    self._say(f"waiting: {step.words}")
                    time.sleep(POLL_SECONDS)
                    stands = self._run.stands() if step.what == "look" else stands
                else:
                    self._change(step, cluster, still)
                cluster, seen = self._look(stands)
        finally:
            self._release(wanted.words)
        self._say(f"done: replicas {stands.replicas}, pods with ranks {len(stands.nodes)}")

    def _look(self, stands: Stands) -> tuple[Table, Seen]:
        """Return the Ray cluster of the job, and what is seen of it."""
        observed = observe(self._api, RAYJOB, self._namespace, self._job)
        cluster = _living(observed)
        owner: Table = observed.owner or {}
        queued = KUEUE_LABEL in (owner["metadata"].get("labels") or {})
        groups = groups_seen(observed, stands.nodes)
        return cluster, Seen(groups, taken_by(cluster), queued, trouble(observed), stands.others)

    def _asked(
        self, wish: ScaleWish, wanted: Wanted, seen: Seen, seconds: float
    ) -> tuple[Stands, Wanted]:
        """Have the run meet the wish; one that has met it by itself is well too."""
        self._say(f"asking the run for {wish}")
        try:
            stands = self._run.scale(wish, seconds)
        except ClusterError as error:
            stands = self._run.stands()
            if not wish.met(stands):
                raise ClusterError(f"{error}. {left(wanted, seen)}") from error
        return stands, replace(wanted, met=True)

    def _change(self, step: Step, cluster: Table, seconds: float) -> None:
        """Write to the cluster; one that has changed meanwhile is looked at again."""
        if step.what == "take":
            take(self._api, cluster, step.words, seconds)
            return
        if step.what != "settle":
            self._say(f"{step.what}: {step.words}")
        floating = bool(cluster["spec"].get("enableInTreeAutoscaling"))
        changes = patch_of(cluster, step.sizes, floating)
        name = cluster["metadata"]["name"]
        try:
            self._api.patch(RAYCLUSTER, self._namespace, name, changes)
        except Refusal as refusal:
            if refusal.status not in CHANGED:
                raise

    def _release(self, wish: str) -> None:
        observed = observe(self._api, RAYJOB, self._namespace, self._job)
        if observed.cluster is not None and taken_by(observed.cluster) == wish:
            release(self._api, observed.cluster)

    def _say(self, line: str) -> None:
        if line != self._told:
            self._told = line
            self._tell(line)


def _living(observed: Observed) -> Table:
    """Return the Ray cluster of a run; ClusterError for a run that has ended or not begun."""
    where = standing(observed)
    if observed.cluster is None or where.phase != "running":
        raise ClusterError(
            f"{observed.kind}/{observed.name} is {where}; only a run that trains can be resized"
        )
    return observed.cluster
