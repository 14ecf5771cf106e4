"""How much a run tells Prometheus."""

from moe.config.metrics import Detail
from moe.config.section import Section


class MetricsSection(Section):
    """The metrics of a run (``docs/reference/metrics.md``)."""

    detail: Detail = "auto"
    """``full`` adds a series for each expert of a layer, and several for each rank; ``summary``
    does not. ``auto`` is full where a run then has at most 3,000 series in all.
    """
