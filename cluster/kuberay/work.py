"""What the pods of an object are for: a plan, what its ranks need, and the files they read."""

from collections.abc import Mapping
from dataclasses import dataclass

from moe.errors import ConfigError, PlanError
from moe.planning.plan.plan import Plan

FILES = "/etc/raymoe"
"""Where head, driver and rank pods find the files of the work."""
RUN_FILE = "run.toml"
PLAN_FILE = "plan.toml"

_MOST_BYTES = 900 * 1024
"""Kubernetes stores at most 1 MiB of an object; names and labels need a little of it."""


@dataclass(frozen=True, slots=True)
class Work:
    """A plan with the bytes that each rank of a replica asks of its node, in order.

    ``spares`` warm processes wait on every node. ``files`` are texts by their names. ``servers``
    replicas of Ray Serve answer, each with the ranks of the plan; None where the work trains.
    """

    plan: Plan
    rank_bytes: tuple[int, ...]
    files: Mapping[str, str]
    spares: int = 1
    servers: int | None = None

    @property
    def replicas(self) -> int:
        """How many times the ranks of one replica are there."""
        return self.plan.replicas * (1 if self.servers is None else self.servers)

    def __post_init__(self) -> None:
        plan, sizes = self.plan, self.rank_bytes
        if len(sizes) != plan.ranks:
            raise PlanError(
                f"the plan has {plan.ranks} ranks but memory was given for {len(sizes)}; "
                "give the bytes of every rank, in order"
            )
        for rank, size in enumerate(sizes):
            if size <= 0:
                raise PlanError(f"rank {rank} was given {size} bytes; give the size of its tensors")
        total = sum(len(text.encode()) for text in self.files.values())
        if total > _MOST_BYTES:
            raise ConfigError(
                f"run file and plan have {total:,} bytes, a ConfigMap takes {_MOST_BYTES:,}; "
                "give the plan fewer devices"
            )
