"""The figures of several replicas as one text for Prometheus."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one replica, in the text form of Prometheus."""

    replica: str
    text: str


def together(figures: Sequence[Figures]) -> bytes:
    """Return the figures of all; each has the label ``replica``."""
    registry = CollectorRegistry()
    registry.register(_Labelled(figures))
    return bytes(generate_latest(registry))


class _Labelled(Collector):
    def __init__(self, figures: Sequence[Figures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield every family once, with the samples of all replicas."""
        families: dict[str, Metric] = {}
        for each in self._figures:
            for family in text_string_to_metric_families(each.text):
                there = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                _add(there, family, each.replica)
        yield from families.values()


def _add(there: Metric, family: Metric, replica: str) -> None:
    for sample in family.samples:
        there.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
