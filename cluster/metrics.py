"""Records metrics of the table ``moe.config.metrics`` in Ray, which exports them to Prometheus."""

import threading
from collections.abc import Iterable, Mapping
from math import isnan, nan
from typing import NamedTuple

from ray.util.metrics import Counter, Gauge

from moe.config.metrics import RUN, Metric, metric
from moe.errors import ClusterError

GONE = nan
"""The value of a gauge whose tags name what is there no more; Ray exports no series without a
number.
"""

FRESH_SECONDS = 5.0
"""Ray exports a gauge that is set, and forgets it 20 s later. So gauges are set again and again."""


class Sample(NamedTuple):
    """A value to set a gauge to, or to add to a counter."""

    name: str
    value: float
    tags: Mapping[str, int | str] = {}


class Recorder:
    """Records the metrics of one run, in the process that it lives in.

    Ray drops the gauges of a process when the process ends, and names every process in a tag. So a
    recorder must live in a process that lives as long as the run.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._instruments: dict[str, Gauge | Counter] = {}
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._recording = threading.Lock()
        threading.Thread(target=self._stay_fresh, name="metrics", daemon=True).start()

    def record_all(self, samples: Iterable[Sample]) -> None:
        """Record several values."""
        for name, value, tags in samples:
            self.record(name, value, **tags)

    def record(self, name: str, value: float, **tags: int | str) -> None:
        """Set a gauge to ``value``, or add ``value`` to a counter."""
        entry = metric(name)
        if set(tags) != set(entry.tags):
            raise ClusterError(
                f"metric {name} takes the tags {_listed(entry.tags)}, got {_listed(tags)}; "
                "give exactly those"
            )
        labels = {RUN: self._run} | {key: str(tags[key]) for key in entry.tags}
        instrument = self._instrument(entry)
        if isinstance(instrument, Gauge):
            self._set(instrument, name, labels, value)
        elif value < 0:
            raise ClusterError(f"counter {name} got {value}; a counter only rises")
        elif value > 0:
            instrument.inc(value, tags=labels)

    def _set(self, gauge: Gauge, name: str, labels: dict[str, str], value: float) -> None:
        with self._recording:
            gauge.set(value, tags=labels)
            key = name, tuple(labels.items())
            if isnan(value):
                self._values.pop(key, None)
            else:
                self._values[key] = value

    def _stay_fresh(self) -> None:
        while True:
            threading.Event().wait(FRESH_SECONDS)
            with self._recording:
                for (name, labels), value in self._values.items():
                    gauge = self._instruments[name]
                    assert isinstance(gauge, Gauge)
                    gauge.set(value, tags=dict(labels))

    def _instrument(self, entry: Metric) -> Gauge | Counter:
        if entry.name not in self._instruments:
            kind = Gauge if entry.kind == "gauge" else Counter
            self._instruments[entry.name] = kind(
                entry.instrument, description=entry.help, tag_keys=entry.labels
            )
        return self._instruments[entry.name]


def _listed(tags: Iterable[str]) -> str:
    return ", ".join(sorted(tags)) or "(none)"
