"""A run in metrics: what its reports and events come to, for the board to record."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.commands import LayerReport, StepReport
from actors.engine.copying import Copied
from cluster.metrics import GONE, Sample
from moe.config.layer_statistics import STATISTICS
from moe.config.metrics import METRICS, STATES, Detail, Extent, full
from moe.config.model import ModelConfig
from moe.config.run import MetricsSection, RunConfig
from moe.planning.plan.plan import Plan
from pipelines.planning.capacity import data_sheet_flops, useful_flops
from pipelines.training.mended import Mended
from pipelines.training.rescaled import NotRescaled, Rescaled
from pipelines.training.saving import Saved

Send = Callable[[Sequence[Sample]], object]

_BY_STAGE = tuple(entry.name for entry in METRICS if entry.tags == ("stage",))


@dataclass(frozen=True, slots=True)
class Measured:
    """What the metrics of a run are measured against.

    ``checkpoint_every`` in steps. ``in_full``: single experts are told of. ``token_flops`` is the
    useful work of a token, in 16-bit products where these are ``sixteen_bit``.
    """

    checkpoint_every: int
    in_full: bool
    token_flops: float
    sixteen_bit: bool

    @classmethod
    def of(cls, run: RunConfig, config: ModelConfig, sequence_length: int) -> "Measured":
        """Return those of a run whose detail is decided."""
        return cls(
            run.checkpoint.every,
            run.metrics.detail == "full",
            useful_flops(config, sequence_length),
            run.train.precision == "bf16",
        )


def with_detail(run: RunConfig, config: ModelConfig, plan: Plan) -> RunConfig:
    """Return the run with a decision on how much is measured, by the largest plan that it has."""
    extent = Extent(len(config.moe_layers), config.experts, len(plan.stages), len(plan.seats))
    detail: Detail = "full" if full(run.metrics.detail, extent) else "summary"
    return run.model_copy(update={"metrics": MetricsSection(detail=detail)})


class RunMetrics:
    """Sends what happens to a run, as samples."""

    def __init__(self, send: Send, against: Measured) -> None:
        self._send = send
        self._against = against
        self._stages: tuple[int, ...] = ()
        self._peak_flops = 0.0
        self._saved = 0

    def starts(self, restarts: int, saved: Mapping[str, Any] | None) -> None:
        """A driver starts: so often was the run started anew, and this was saved last."""
        told = [Sample("checkpoint_every", self._against.checkpoint_every)]
        told.append(Sample("restarts", restarts))
        if saved is not None:
            told += self._checkpoint(saved["step"], saved["time"])
        self._send([*told, *_state("starting")])

    def trains(self, plan: Plan, restarts: int) -> None:
        """The ranks train under a plan: what told of stages that it has not is gone."""
        gone = {*self._stages} - {*range(len(plan.stages))}
        self._stages = tuple(seat.stage for seat in plan.seats)
        self._peak_flops = data_sheet_flops(plan, self._against.sixteen_bit)
        told = [Sample(name, GONE, {"stage": each}) for name in _BY_STAGE for each in gone]
        told += [Sample("ranks", len(self._stages)), Sample("restarts", restarts)]
        self._send([*told, *_state("training")])

    def step(self, report: StepReport, known: Mapping[str, float]) -> None:
        """A step is done; ``known`` are further gauges."""
        waits = {"bubble": report.bubble, "communication": report.communication}
        values = {**gauges(report), **waits, **self.work(report), **known}
        values["step_timestamp_seconds"] = time.time()
        values["checkpoint_age"] = report.step - self._saved
        told = [Sample(name, value) for name, value in values.items()]
        told.append(Sample("tokens", report.tokens))
        told += self._by_stage("peak_memory_bytes", report.peak_bytes)
        told += self._by_stage("stage_seconds", report.compute_seconds)
        for number, layer in report.layers.items():
            told += _layer(number, layer, self._against.in_full)
        self._send([*told, *_state("training")])

    def checkpoint(self, saved: Saved) -> None:
        """A checkpoint is complete."""
        told = self._checkpoint(saved.step, time.time())
        told.append(Sample("checkpoint_stall_seconds", saved.stall_seconds))
        told.append(Sample("checkpoint_seconds", saved.seconds))
        self._send(told)

    def copied(self, copied: Copied) -> None:
        """Copies of all ranks have become whole."""
        values = {
            "copy_step": copied.step,
            "copy_stall_seconds": copied.stall_seconds,
            "copy_seconds": copied.seconds,
            "copy_bytes": copied.bytes,
        }
        self._send([Sample(name, value) for name, value in values.items()])

    def stands(self, state: str) -> None:
        """The run is in another of ``STATES``."""
        self._send(_state(state))

    def mended(self, mended: Mended, restarts: int) -> None:
        """The run goes on after a loss."""
        told = [
            Sample("losses", 1, {"how": mended.how}),
            Sample("ranks_replaced", len(mended.replaced)),
            Sample("recovery_seconds", mended.total_seconds),
            Sample("steps_repeated", max(mended.lost_step - mended.step, 0)),
            Sample("restarts", restarts),
        ]
        self._send([*told, *_state("training")])

    def resized(self, news: Rescaled | NotRescaled) -> None:
        """The plan has changed, or could not be changed."""
        changed = isinstance(news, Rescaled)
        told = [Sample("resizes", 1, {"how": "changed" if changed else "unchanged"})]
        if isinstance(news, Rescaled):
            told.append(Sample("resize_seconds", news.total_seconds))
            told.append(Sample("resize_bytes", news.bytes))
        self._send(told)

    def spares(self, ready: int) -> None:
        """So many warm processes are ready."""
        self._send([Sample("spares", ready)])

    def work(self, report: StepReport) -> dict[str, float]:
        """Return what the step was worth, also of the peak of the devices where that is known."""
        if not report.seconds:
            return {}
        done = self._against.token_flops * report.computed_tokens / report.seconds
        found = {"flops_per_second": done}
        if self._peak_flops:
            found["mfu"] = done / self._peak_flops
        return found

    def _checkpoint(self, step: int, moment: float) -> list[Sample]:
        self._saved = step
        values = {"checkpoint_step": step, "checkpoint_timestamp_seconds": moment}
        return [Sample(name, value) for name, value in values.items()]

    def _by_stage(self, name: str, by_rank: Sequence[float]) -> Iterator[Sample]:
        """Yield the largest value of each stage."""
        largest: dict[int, float] = {}
        for stage, value in zip(self._stages, by_rank, strict=False):
            largest[stage] = max(value, largest.get(stage, value))
        return (Sample(name, value, {"stage": stage}) for stage, value in largest.items())


def gauges(report: StepReport) -> dict[str, float]:
    """Return the numbers of a step that metrics and journal have under the same names."""
    return {
        "step": report.step,
        "loss": report.loss,
        **_sum_over_layers(report),
        "gradient_norm": report.gradient_norm,
        "learning_rate": report.learning_rate,
        "step_seconds": report.seconds,
        "tokens_per_second": report.tokens / report.seconds if report.seconds else 0.0,
    }


def _sum_over_layers(report: StepReport) -> dict[str, float]:
    """Return the router losses of the run, each summed over layers."""
    sums: dict[str, float] = {}
    for each in STATISTICS:
        if each.export is None or each.export.tags:
            continue
        found = [getattr(layer, each.name) for layer in report.layers.values()]
        used = [value for value in found if value is not None]
        if used or not each.optional:
            sums[each.export.name] = sum(used)
    return sums


def _layer(number: int, layer: LayerReport, in_full: bool) -> Iterator[Sample]:
    """Yield the samples of one layer's router."""
    tags, total = {"layer": number}, max(sum(layer.load), 1)
    yield Sample("balance_coefficient", layer.coefficient, tags)
    yield Sample("dead_experts", layer.load.count(0), tags)
    yield Sample("expert_overload", max(layer.load) * len(layer.load) / total, tags)
    if layer.similarity is not None:
        yield Sample("expert_similarity", layer.similarity, tags)
    for each in STATISTICS:
        if each.export is None or not each.export.tags:
            continue
        value = getattr(layer, each.name)
        if not each.by_expert:
            yield Sample(each.export.name, value, tags)
        elif in_full:
            for expert, count in enumerate(value):
                yield Sample(each.export.name, count / total, {**tags, "expert": expert})


def _state(present: str) -> list[Sample]:
    return [Sample("state", float(each == present), {"state": each}) for each in STATES]
