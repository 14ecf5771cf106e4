"""A run on a Ray cluster on Kubernetes, asked by jobs on its head: the code is the image's."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.jobs import JobRequest, follow, submit
from cluster.kube.scale_wish import ScaleWish
from cluster.stands import Stands, stands_in
from moe.errors import ConfigError

PLAN_VARIABLE = "RAYMOE_PLAN"
"""Environment variable that carries a plan file into the job."""
MOST_BYTES = 120_000
"""Linux takes 128 KiB for one variable."""


@dataclass(frozen=True, slots=True)
class RunThere:
    """A run by its name, the address of the dashboard of its cluster, and Python on its head."""

    name: str
    address: str
    python: str = "python"

    def stands(self) -> Stands:
        """Return how the run stands."""
        return stands_in(self._done((), {}))

    def scale(self, wish: ScaleWish, seconds: float) -> Stands:
        """Have the run meet a wish; return how it stands then.

        ClusterError with the run's own sentence where it does not.
        """
        words, plan = [*wish.words, "--seconds", f"{seconds:.0f}"], wish.file
        if plan is None:
            return stands_in(self._done(words, {}))
        text = plan.read_text(encoding="utf-8")
        if len(text.encode()) > MOST_BYTES:
            raise ConfigError(
                f"{plan} has more than {MOST_BYTES:,} bytes, which no job takes; put it on the "
                f"volume of the pods, and run `raymoe scale {self.name} --plan FILE` in the head's"
            )
        return stands_in(self._done([*words, "--plan", "/dev/stdin"], {PLAN_VARIABLE: text}))

    def _done(self, words: Sequence[str], variables: dict[str, str]) -> list[str]:
        """Run ``raymoe scale`` to its end, and return the lines of its log."""
        scale = ["-m", "pipelines.cli", "scale", self.name, *words, "--stands"]
        given = f'printf %s "${PLAN_VARIABLE}" | ' if variables else ""
        request = JobRequest(
            name=f"{self.name}-scale",
            entrypoint=f"{given}{self.python} {shlex.join(scale)}",
            working_dir=None,
            metadata={"run": self.name, "does": "scale"},
            environment=variables,
        )
        lines: list[str] = []
        follow(submit(self.address, request), lines.append)
        return lines
