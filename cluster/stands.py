"""How a run stands, as one line that travels in the log of a job."""

import json
from dataclasses import asdict, dataclass

from moe.errors import ClusterError

_MARK = "stands: "


@dataclass(frozen=True, slots=True)
class Stands:
    """The shape of a run's plan, a ``digest`` of it, and the addresses of the nodes with its ranks.

    ``others`` are the runs and servers that have ranks on the cluster too.
    """

    run: str
    replicas: int
    stages: int
    gang: int
    digest: str
    nodes: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The line in a log."""
        return _MARK + json.dumps(asdict(self))


def stands_in(lines: list[str]) -> Stands:
    """Return what the last such line of a log says; ClusterError where there is none."""
    found = [line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)]
    if not found:
        raise ClusterError(
            "the cluster did not say how the run stands; its image has an older raymoe, so render "
            "the run with a newer one, and apply it"
        )
    table = json.loads(found[-1])
    return Stands(**table | {key: tuple(table[key]) for key in ("nodes", "others")})
