"""The metrics of one rank: its own process exports them, on the node where it is."""

import threading
from math import nan

from ray.util.metrics import Gauge

from actors.commands import BuildCommand, RankReport
from moe.config.metrics import RUN, WAITS, metric

FRESH_SECONDS = 5.0
"""Ray exports a gauge that is set, and forgets it 20 s later; a step may take longer."""

_Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""By metric and tags."""


class Gauges:
    """Sets the gauges of a rank to what its last step took.

    A process may become another rank, in a resize. Gauges of the one before then become NaN, which
    Ray does not export.
    """

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._told: _Values = {}
        self._telling = threading.Lock()
        threading.Thread(target=self._stay_fresh, name="metrics", daemon=True).start()

    def tell(self, command: BuildCommand, report: RankReport) -> None:
        """Set the gauges to what a step took; those of single waits where the run records all."""
        values = _values(command, report)
        with self._telling:
            self._set(dict.fromkeys(self._told, nan) | values)
            self._told = values

    def _stay_fresh(self) -> None:
        while True:
            threading.Event().wait(FRESH_SECONDS)
            with self._telling:
                self._set(self._told)

    def _set(self, values: _Values) -> None:
        for (name, tags), value in values.items():
            self._gauge(name).set(value, tags=dict(tags))

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            entry = metric(name)
            self._gauges[name] = Gauge(entry.instrument, entry.help, entry.labels)
        return self._gauges[name]


def _values(command: BuildCommand, report: RankReport) -> _Values:
    assert command.run is not None
    number = command.plan.seats.rank(command.seat)
    rank = (
        (RUN, command.run.name),
        ("stage", str(command.seat.stage)),
        ("rank", str(number)),
    )
    found: _Values = {("rank_compute_seconds", rank): report.compute_seconds}
    if command.run.metrics.detail == "full":
        found["rank_peak_memory_bytes", rank] = report.peak_bytes
        for whom in WAITS:
            tags = (*rank, ("waits", whom))
            found["rank_wait_seconds", tags] = getattr(report.waits, whom)
    return found
