"""What somebody wants a run on Kubernetes to be: so many replicas, so many nodes, or a plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.kube.wanted_pods import pods_of_nodes, pods_of_plan, pods_of_replicas
from cluster.kube.worker_groups import GroupSeen
from cluster.stands import Stands
from moe.errors import ConfigError
from moe.planning.plan.file import digest, load_plan
from moe.planning.plan.plan import Plan

Table = dict[str, Any]


def wish_of(replicas: int | None, plan: Path | None, nodes: int | None) -> "ScaleWish":
    """Return the wish of a command line, which gives one of three; ConfigError for any other."""
    given = [each for each in (replicas, plan, nodes) if each is not None]
    if len(given) != 1:
        raise ConfigError(
            f"{len(given)} of --replicas, --plan and --nodes were given; give one of them"
        )
    for option, count in (("--replicas", replicas), ("--nodes", nodes)):
        if count is not None and count < 1:
            raise ConfigError(f"{option} is {count}; give a number from 1 on")
    return ScaleWish(replicas, nodes, None if plan is None else load_plan(plan), plan)


@dataclass(frozen=True, slots=True)
class ScaleWish:
    """One of three, as ``raymoe scale`` takes them; ``file`` is where the ``plan`` is from."""

    replicas: int | None = None
    nodes: int | None = None
    plan: Plan | None = None
    file: Path | None = None

    @property
    def words(self) -> list[str]:
        """The options of ``raymoe scale`` without that of the plan."""
        if self.replicas is not None:
            return ["--replicas", str(self.replicas)]
        return [] if self.nodes is None else ["--nodes", str(self.nodes)]

    def __str__(self) -> str:
        return " ".join(self.words) or f"--plan {digest(self.plan) if self.plan else ''}"

    def met(self, stands: Stands) -> bool:
        """Return whether a run that stands so has what is wished."""
        if self.plan is not None:
            return stands.digest == digest(self.plan)
        if self.replicas is not None:
            return stands.replicas == self.replicas
        return len(stands.nodes) == self.nodes

    def pods(
        self, groups: tuple[GroupSeen, ...], cluster: Table, stands: Stands
    ) -> Mapping[str, int]:
        """Return how many pods each group has once it is met."""
        if self.plan is not None:
            return pods_of_plan(self.plan, cluster)
        if self.replicas is not None:
            return pods_of_replicas(groups, stands.replicas, stands.stages, self.replicas)
        assert self.nodes is not None
        return pods_of_nodes(groups, self.nodes)
