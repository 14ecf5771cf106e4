"""Every metric, named once. Ray exports them to Prometheus as ``ray_raymoe_NAME``.

Counters get the ending ``_total`` there. All carry the tag ``run``; Ray adds tags of its own. What
is recorded, the reference page, the dashboard for Grafana and the alert rules follow from this
table.

A run has as many series as its metrics have values of their tags. Those ``in_full`` have one for
each expert or rank; a run records them where that is not too many (``full``).
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Literal

from moe.config.layer_statistics import STATISTICS
from moe.errors import ClusterError

PREFIX = "raymoe_"
RUN = "run"

MOST_SERIES = 3000
"""Series of a run whose file does not ask for more."""

STATES = ("starting", "training", "mending", "waiting")
WAITS = ("stages", "gang", "replicas", "end")
VALUES = {
    "how": ("healed", "replanned", "restored", "changed", "unchanged"),
    "state": STATES,
    "waits": WAITS,
    "end": ("finished", "abandoned"),
}
"""Tags whose values do not depend on the run."""

Detail = Literal["auto", "summary", "full"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table. A gauge holds the last value, a counter the sum of all values."""

    name: str
    kind: Literal["gauge", "counter"]
    unit: str
    description: str
    tags: tuple[str, ...] = ()
    in_full: bool = False
    source: Literal["run", "rank", "server"] = "run"
    """Which process records it: the board of a run, a rank on its own node, a server."""

    @property
    def exported_name(self) -> str:
        """Name in Prometheus."""
        ending = "_total" if self.kind == "counter" else ""
        return f"ray_{self.instrument}{ending}"

    @property
    def instrument(self) -> str:
        """Name in Ray."""
        return PREFIX + self.name

    @property
    def labels(self) -> tuple[str, ...]:
        """All tags of ours."""
        return (RUN, *self.tags)

    @property
    def help(self) -> str:
        """What Prometheus shows of it."""
        return f"{self.description} Unit: {self.unit}."


@dataclass(frozen=True, slots=True)
class Extent:
    """What the series of a run are counted by; ``layers`` are those with experts."""

    layers: int
    experts: int
    stages: int
    ranks: int


def _gauge(name: str, unit: str, description: str, *tags: str) -> Metric:
    return Metric(name, "gauge", unit, description, tags)


def _counter(name: str, unit: str, description: str, *tags: str) -> Metric:
    return Metric(name, "counter", unit, description, tags)


def _of_rank(name: str, unit: str, description: str, *tags: str, in_full: bool = True) -> Metric:
    return Metric(name, "gauge", unit, description, ("stage", "rank", *tags), in_full, "rank")


ROUTERS: tuple[Metric, ...] = tuple(
    Metric(
        each.export.name,
        "gauge",
        each.export.unit,
        each.export.description,
        each.export.tags,
        in_full="expert" in each.export.tags,
    )
    for each in STATISTICS
    if each.export is not None
)
"""Metrics of routers, from the table of ``moe.config.layer_statistics``."""

_STEPS = (
    _gauge("step", "steps", "Last training step that is done."),
    _gauge("step_timestamp_seconds", "seconds since 1970", "When the last step was done."),
    _gauge("loss", "nats per token", "Cross entropy of the last step."),
    _gauge("gradient_norm", "1", "Norm of the gradient of all parameters, before clipping."),
    _gauge("learning_rate", "1", "Learning rate of the last step."),
    _gauge("step_seconds", "seconds", "Duration of the last step."),
    _gauge(
        "tokens_per_second", "tokens per second", "Tokens of the last step that count in the loss."
    ),
    _counter("tokens", "tokens", "Tokens that counted in the loss since the start of the run."),
)

_WORK = (
    _gauge("flops_per_second", "FLOP/s", "Useful work of the last step, of all ranks together."),
    _gauge("mfu", "fraction", "Useful work of the last step, of the data-sheet peak of all GPUs."),
    _gauge("bubble", "fraction", "Part of the last step in which ranks waited for others."),
    _gauge("communication", "fraction", "Part of the last step in sums over gangs and replicas."),
    _gauge("stage_seconds", "seconds", "Time that a rank computed, slowest of the stage.", "stage"),
    _gauge("peak_memory_bytes", "bytes", "Largest memory that a rank has held.", "stage"),
    _of_rank(
        "rank_compute_seconds",
        "seconds",
        "Time that the rank computed in the last step.",
        in_full=False,
    ),
    _of_rank(
        "rank_wait_seconds", "seconds", "Time that the rank waited in the last step.", "waits"
    ),
    _of_rank("rank_peak_memory_bytes", "bytes", "Largest memory that the rank has held."),
)

_BALANCE = (
    *ROUTERS,
    _gauge("balance_coefficient", "1", "Weight of the balance loss.", "layer"),
    _gauge("expert_overload", "1", "Load of the fullest expert over the mean.", "layer"),
    _gauge("dead_experts", "experts", "Experts that no token reached in the last step.", "layer"),
    _gauge(
        "expert_similarity",
        "1",
        "Mean cosine of the weights of all pairs of experts, every `monitor.every` steps.",
        "layer",
    ),
)

_KEPT = (
    _gauge("checkpoint_step", "steps", "Steps done as of the newest checkpoint."),
    _gauge("checkpoint_age", "steps", "Steps done since the newest checkpoint."),
    _gauge("checkpoint_timestamp_seconds", "seconds since 1970", "When it was complete."),
    _gauge("checkpoint_every", "steps", "Steps from one checkpoint to the next."),
    _gauge("checkpoint_stall_seconds", "seconds", "Time that training waited for the last save."),
    _gauge("checkpoint_seconds", "seconds", "Time until the last checkpoint was complete."),
    _gauge("copy_step", "steps", "Steps done as of the newest whole copies of ranks."),
    _gauge("copy_age", "steps", "Steps done since the newest whole copies."),
    _gauge("copy_stall_seconds", "seconds", "Time that training waited for the last copies."),
    _gauge("copy_seconds", "seconds", "Time until the last copies were whole."),
    _gauge("copy_bytes", "bytes", "Size of the last copies of all ranks."),
)

_LIFE = (
    _gauge("state", "0 or 1", "Whether the run is in a state.", "state"),
    _gauge("goodput", "fraction", "Part of the time that went into steps that were kept."),
    _gauge("epoch", "epochs", "Membership epoch: how often ranks have met."),
    _gauge("ranks", "ranks", "Ranks of the plan that the run follows."),
    _gauge("restarts", "restarts", "Times that the driver, or all ranks, were started anew."),
    _gauge("spares", "processes", "Warm processes that can take the place of a rank."),
    _counter("losses", "losses", "Losses that the run mended.", "how"),
    _counter("ranks_replaced", "ranks", "Ranks that were replaced by new processes."),
    _gauge("recovery_seconds", "seconds", "Time without training after the last loss."),
    _counter("steps_repeated", "steps", "Steps done again after losses."),
    _counter("resizes", "resizes", "Changes of plan, and those that failed.", "how"),
    _gauge("resize_seconds", "seconds", "Time without training in the last resize."),
    _gauge("resize_bytes", "bytes", "Tensors that moved between ranks in the last resize."),
)

_SERVING = tuple(
    Metric(name, "counter", unit, description, tags, source="server")
    for name, unit, description, tags in (
        ("serving_generations", "generations", "Generations that ended.", ("end",)),
        ("serving_prompt_tokens", "tokens", "Prompt tokens of generations that ended.", ()),
        ("serving_generated_tokens", "tokens", "Tokens of generations that ended.", ()),
    )
)

SECTIONS: Mapping[str, tuple[Metric, ...]] = {
    "Steps": _STEPS,
    "Where the time goes": _WORK,
    "Experts": _BALANCE,
    "Checkpoints and copies": _KEPT,
    "Losses and changes": _LIFE,
    "Served": _SERVING,
}
"""The table, by what it tells of."""

METRICS: tuple[Metric, ...] = tuple(chain(*SECTIONS.values()))

_BY_NAME = {entry.name: entry for entry in METRICS}


def metric(name: str) -> Metric:
    """Return one metric by its name."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    close = difflib.get_close_matches(name, _BY_NAME, n=1)
    hint = f"did you mean {close[0]}?" if close else "add it to the table in moe/config/metrics.py"
    raise ClusterError(f"there is no metric {name}; {hint}")


def series(extent: Extent, in_full: bool) -> int:
    """Return how many series a run has at most, on all nodes together."""
    sizes = {name: len(values) for name, values in VALUES.items()}
    sizes |= {"layer": extent.layers, "expert": extent.experts}
    sizes |= {"stage": extent.stages, "rank": extent.ranks}
    recorded = (each for each in METRICS if each.source != "server")
    return sum(
        prod(sizes[tag] for tag in each.tags if tag != "stage" or "rank" not in each.tags)
        for each in recorded
        if in_full or not each.in_full
    )


def full(detail: Detail, extent: Extent) -> bool:
    """Return whether a run records the metrics of single experts and ranks."""
    return detail == "full" or (detail == "auto" and series(extent, True) <= MOST_SERIES)


def table_rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the exported name, kind, unit, tags and description of each metric, for the docs."""
    for entry in METRICS:
        yield (
            entry.exported_name,
            entry.kind,
            entry.unit,
            ", ".join(entry.labels),
            entry.description,
        )
