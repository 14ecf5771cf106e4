"""Every metric, named once. Ray exports them to Prometheus as ``ray_raymoe_NAME``.

Counters get the ending ``_total`` there. All carry the tag ``run``.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ray.util.metrics import Counter, Gauge

from moe.config.layer_statistics import STATISTICS
from moe.errors import ClusterError

PREFIX = "raymoe_"
RUN = "run"


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table. A gauge holds the last value, a counter the sum of all values."""

    name: str
    kind: Literal["gauge", "counter"]
    unit: str
    description: str
    tags: tuple[str, ...] = ()

    @property
    def exported_name(self) -> str:
        """Name in Prometheus."""
        ending = "_total" if self.kind == "counter" else ""
        return f"ray_{PREFIX}{self.name}{ending}"


ROUTERS: tuple[Metric, ...] = tuple(
    Metric(each.export.name, "gauge", each.export.unit, each.export.description, each.export.tags)
    for each in STATISTICS
    if each.export is not None
)
"""Metrics of routers, from the table of ``moe.config.layer_statistics``."""

METRICS: tuple[Metric, ...] = (
    Metric("step", "gauge", "steps", "Last training step that is done."),
    Metric("loss", "gauge", "nats per token", "Cross entropy of the last step."),
    Metric(
        "gradient_norm", "gauge", "1", "Norm of the gradient of all parameters, before clipping."
    ),
    Metric("learning_rate", "gauge", "1", "Learning rate of the last step."),
    Metric("step_seconds", "gauge", "seconds", "Duration of the last step."),
    Metric("tokens_per_second", "gauge", "tokens per second", "Training speed of the last step."),
    Metric("goodput", "gauge", "fraction", "Part of the time that went into steps that were kept."),
    Metric("epoch", "gauge", "epochs", "Membership epoch: how often ranks have met."),
    Metric("tokens", "counter", "tokens", "Tokens trained on since the start of the run."),
    *ROUTERS,
    Metric("balance_coefficient", "gauge", "1", "Weight of the balance loss.", ("layer",)),
    Metric(
        "expert_similarity",
        "gauge",
        "1",
        "Mean cosine of the weights of all pairs of experts, every `monitor.every` steps.",
        ("layer",),
    ),
    Metric(
        "peak_memory_bytes", "gauge", "bytes", "Largest memory that any rank has held.", ("rank",)
    ),
    Metric(
        "checkpoint_stall_seconds",
        "gauge",
        "seconds",
        "Time that training waited for the last save.",
    ),
    Metric(
        "checkpoint_seconds", "gauge", "seconds", "Time until the last checkpoint was complete."
    ),
    Metric("copy_step", "gauge", "steps", "Steps done as of the newest whole copies of ranks."),
    Metric("copy_age", "gauge", "steps", "Steps done since the newest whole copies."),
    Metric(
        "copy_stall_seconds", "gauge", "seconds", "Time that training waited for the last copies."
    ),
    Metric("copy_seconds", "gauge", "seconds", "Time until the last copies were whole."),
    Metric("copy_bytes", "gauge", "bytes", "Size of the last copies of all ranks."),
    Metric("spares", "gauge", "processes", "Warm processes that can take the place of a rank."),
    Metric("losses", "counter", "losses", "Losses that the run mended.", ("how",)),
    Metric("ranks_replaced", "counter", "ranks", "Ranks that were replaced by new processes."),
    Metric("recovery_seconds", "gauge", "seconds", "Time without training after the last loss."),
    Metric("steps_repeated", "counter", "steps", "Steps done again after losses."),
    Metric("resizes", "counter", "resizes", "Changes of plan, and those that failed.", ("how",)),
    Metric("resize_seconds", "gauge", "seconds", "Time without training in the last resize."),
    Metric(
        "resize_bytes", "gauge", "bytes", "Tensors that moved between ranks in the last resize."
    ),
    Metric("serving_generations", "counter", "generations", "Generations started.", ("end",)),
    Metric("serving_prompt_tokens", "counter", "tokens", "Prompt tokens processed."),
    Metric("serving_generated_tokens", "counter", "tokens", "Tokens generated."),
)


def metric(name: str) -> Metric:
    """Return one metric by its name."""
    for entry in METRICS:
        if entry.name == name:
            return entry
    close = difflib.get_close_matches(name, [entry.name for entry in METRICS], n=1)
    hint = f"did you mean {close[0]}?" if close else "add it to the table in cluster/metrics.py"
    raise ClusterError(f"there is no metric {name}; {hint}")


def table_rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the exported name, kind, unit, tags and description of each metric, for the docs."""
    for entry in METRICS:
        tags = ", ".join((RUN, *entry.tags))
        yield entry.exported_name, entry.kind, entry.unit, tags, entry.description


class Recorder:
    """Records the metrics of one run, in the process that measures them.

    Ray drops the metrics of a process when the process ends, so a recorder must live in a process
    that lives as long as the run.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._instruments: dict[str, Gauge | Counter] = {}

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
            instrument.set(value, tags=labels)
        elif value < 0:
            raise ClusterError(f"counter {name} got {value}; a counter only rises")
        elif value > 0:
            instrument.inc(value, tags=labels)

    def _instrument(self, entry: Metric) -> Gauge | Counter:
        if entry.name not in self._instruments:
            kind = Gauge if entry.kind == "gauge" else Counter
            self._instruments[entry.name] = kind(
                PREFIX + entry.name,
                description=f"{entry.description} Unit: {entry.unit}.",
                tag_keys=(RUN, *entry.tags),
            )
        return self._instruments[entry.name]


def _listed(tags: object) -> str:
    names = sorted(str(tag) for tag in tags) if isinstance(tags, tuple | dict) else []
    return ", ".join(names) or "(none)"
