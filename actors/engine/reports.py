"""The reports of all ranks on one step, merged into one report of the run."""

from collections.abc import Sequence
from statistics import fmean

from actors.commands import RankReport, StepReport
from moe.errors import RankLost


def merge(reports: Sequence[RankReport], tokens: int, seconds: float) -> StepReport:
    """Merge the reports of all ranks on one step into one report of the run."""
    losses = [report.loss for report in reports if report.loss is not None]
    if not losses:
        raise RankLost("no rank reported a loss; the last stage is missing from the reports")
    bubbles = [_part(report, report.waits.stages + report.waits.end) for report in reports]
    sums = [_part(report, report.waits.gang + report.waits.replicas) for report in reports]
    return StepReport(
        step=reports[0].step,
        loss=losses[0],
        gradient_norm=reports[0].gradient_norm,
        learning_rate=reports[0].learning_rate,
        tokens=tokens,
        seconds=seconds,
        layers={k: v for report in reports for k, v in report.layers.items()},
        peak_bytes=tuple(report.peak_bytes for report in reports),
        compute_seconds=tuple(report.compute_seconds for report in reports),
        bubble=fmean(bubbles),
        communication=fmean(sums),
        timeline=tuple(report.events for report in reports if report.events),
    )


def _part(report: RankReport, seconds: float) -> float:
    """Return seconds as a part of the step of a rank."""
    return seconds / report.busy_seconds if report.busy_seconds else 0.0
