"""The alerts: what is wrong with a run or a server, how Prometheus sees it, what to do.

Queries aggregate by the tags of ours, because Ray's tags change with every process.
"""

from dataclasses import dataclass
from typing import Any, Literal

from cluster.monitoring.server import ENDED, MODEL, WAITING
from moe.config.metrics import metric


@dataclass(frozen=True, slots=True)
class Alert:
    """``query`` is not empty while something is wrong; the alert fires after ``minutes`` of that.

    ``summary`` and ``remedy`` may name tags of what the query returns.
    """

    name: str
    query: str
    minutes: int
    severity: Literal["warning", "critical"]
    summary: str
    remedy: str


def _of(name: str) -> str:
    """Return a metric of the table as Prometheus names it."""
    return metric(name).exported_name


def _now(name: str) -> str:
    return f"max by (run) ({_of(name)})"


def _risen(name: str, window: str) -> str:
    """Return by how much a gauge that never falls has risen."""
    return f"{_now(name)} - min by (run) (min_over_time({_of(name)}[{window}]))"


def _uneven(name: str, tags: str, among: str, factor: float) -> str:
    """Return the values that exceed a low quantile of their like by a factor."""
    each = f"max by ({tags}) (avg_over_time({_of(name)}[5m]))"
    usual = f"quantile by ({among}) (0.25, {each})"
    return f"{each} / on ({among}) group_left () {usual} > {factor}"


ALERTS = (
    Alert(
        "RaymoeLossDiverges",
        f"max by (run) (avg_over_time({_of('loss')}[10m])) > "
        f"1.25 * min by (run) (quantile_over_time(0.1, {_of('loss')}[2h]))",
        10,
        "critical",
        "The loss of {{ $labels.run }} is {{ $value }} nats and rises.",
        "Compare the norm of the gradient and the learning rate; go back to a checkpoint from "
        "before the rise with a lower train.learning_rate.",
    ),
    Alert(
        "RaymoeStalled",
        f"time() - {_now('step_timestamp_seconds')} > clamp_min(20 * {_now('step_seconds')}, 600)",
        0,
        "critical",
        "{{ $labels.run }} has done no step for {{ $value | humanizeDuration }}.",
        "Look at its state and at the last lines of its command line.",
    ),
    Alert(
        "RaymoeWaits",
        f'max by (run) ({_of("state")}{{state="waiting"}}) == 1',
        10,
        "warning",
        "{{ $labels.run }} waits for nodes.",
        "Its terminal and its journal say which it lacks; give them, or let it shrink "
        "(elastic.on_shrink).",
    ),
    Alert(
        "RaymoeRestarts",
        f"({_risen('restarts', '1h')} > 1) or ({_risen('epoch', '1h')} > 4)",
        0,
        "warning",
        "{{ $labels.run }} has started anew, or its ranks have met, {{ $value }} times in an hour.",
        "The journal has the cause of every loss; look at the nodes that it names.",
    ),
    Alert(
        "RaymoeCheckpointStale",
        f"({_now('checkpoint_age')} > 2 * {_now('checkpoint_every')}) and "
        f"({_now('checkpoint_every')} > 0)",
        5,
        "warning",
        "{{ $labels.run }} has done {{ $value }} steps since its newest checkpoint.",
        "Look whether its storage is full or slow (checkpoint_seconds, checkpoint_stall_seconds).",
    ),
    Alert(
        "RaymoeDeadExperts",
        f"max by (run, layer) (min_over_time({_of('dead_experts')}[15m])) > 0",
        5,
        "warning",
        "{{ $value }} experts of layer {{ $labels.layer }} of {{ $labels.run }} get no token.",
        "Raise balance.coefficient, or set balance.z_loss; after upcycling, look at the noise of "
        "its experts.",
    ),
    Alert(
        "RaymoeDropRate",
        f"max by (run, layer) (avg_over_time({_of('drop_rate')}[15m])) > 0.3",
        15,
        "warning",
        "Layer {{ $labels.layer }} of {{ $labels.run }} drops {{ $value | humanizePercentage }} "
        "of its assignments.",
        "Raise routing.capacity_factor or balance.coefficient.maximum.",
    ),
    Alert(
        "RaymoeStraggler",
        _uneven("rank_compute_seconds", "run, stage, rank", "run, stage", 1.5),
        10,
        "warning",
        "Rank {{ $labels.rank }} of {{ $labels.run }} takes {{ $value }} times as long as others "
        "of its stage.",
        "Look at its node: clocks, other processes, memory. Drain the node, and the run leaves it.",
    ),
    Alert(
        "RaymoeStageSlow",
        _uneven("stage_seconds", "run, stage", "run", 1.5),
        10,
        "warning",
        "Stage {{ $labels.stage }} of {{ $labels.run }} takes {{ $value }} times as long as "
        "others.",
        "Profile the nodes (raymoe profile), make a plan from that, and change to it (raymoe "
        "scale).",
    ),
    Alert(
        "RaymoeServerQueue",
        f"max by ({MODEL}) (min_over_time({WAITING}[5m])) > 0",
        5,
        "warning",
        "Requests to {{ $labels.model_name }} always wait.",
        "Give the server more --running or --cache-tokens, or another server beside it.",
    ),
    Alert(
        "RaymoeServerErrors",
        f'sum by ({MODEL}) (rate({ENDED}{{finished_reason="error"}}[5m])) > 0',
        5,
        "critical",
        "Requests to {{ $labels.model_name }} end with errors.",
        "Look at the log of its replica on the Ray dashboard.",
    ),
)


def rules() -> dict[str, Any]:
    """Return the alerts in the form of a rule file of Prometheus."""
    return {"groups": [{"name": "raymoe", "rules": [_rule(alert) for alert in ALERTS]}]}


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.query,
        **({"for": f"{alert.minutes}m"} if alert.minutes else {}),
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.remedy},
    }
