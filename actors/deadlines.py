"""How long an engine waits for its ranks."""

from dataclasses import dataclass

from moe.config.run import RunConfig


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds to wait: for all ranks to start, for one command, for one message between ranks.

    ``hang``: how long a rank may not answer at all.
    """

    launch: float = 180.0
    command: float = 1800.0
    group: float = 120.0
    hang: float = 30.0


def deadlines_of(run: RunConfig) -> Deadlines:
    """Return the deadlines a run file sets."""
    cluster = run.cluster
    return Deadlines(
        cluster.launch_seconds,
        cluster.step_seconds,
        cluster.group_seconds,
        run.elastic.hang_seconds,
    )
