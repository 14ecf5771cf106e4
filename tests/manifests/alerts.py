"""What runs and servers look like when an alert should fire, and when it should not.

Series are in the notation of ``promtool test rules``, a value a minute: ``4+0x60`` is 4 for an
hour and a minute, ``0+1x9`` rises from 0 to 9.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.monitoring.alerts import ALERTS

_SEVERITY = {alert.name: alert.severity for alert in ALERTS}
RUN = {"run": "r"}
MODEL = {"model_name": "m"}


@dataclass(frozen=True, slots=True)
class Case:
    """Series, and the labels of the alert that fires ``minutes`` later; None: it does not."""

    alert: str
    what: str
    series: Mapping[str, str]
    minutes: int
    fires: Mapping[str, str] | None = field(default=None)

    def table(self) -> dict[str, Any]:
        """Return it as a test of promtool."""
        inputs = [{"series": each, "values": values} for each, values in self.series.items()]
        labels = {"alertname": self.alert, "alertstate": "firing", **(self.fires or {})}
        labels |= {"__name__": "ALERTS", "severity": _SEVERITY[self.alert]}
        listed = ", ".join(f'{key}="{value}"' for key, value in labels.items() if key[0] != "_")
        query = f'ALERTS{{alertname="{self.alert}", alertstate="firing"}}'
        found = [] if self.fires is None else [{"labels": f"ALERTS{{{listed}}}", "value": 1}]
        expected = {"expr": query, "eval_time": f"{self.minutes}m", "exp_samples": found}
        name = f"{self.alert}: {self.what}"
        return {
            "name": name,
            "interval": "1m",
            "input_series": inputs,
            "promql_expr_test": [expected],
        }


def gauge(name: str, *tags: str) -> str:
    """Return a series as Ray exports it, with a tag of its process."""
    listed = ", ".join(('run="r"', 'WorkerId="w"', *tags))
    return f"ray_raymoe_{name}{{{listed}}}"


def rank(number: int) -> str:
    """Return the computing time of a rank."""
    return gauge("rank_compute_seconds", 'stage="0"', f'rank="{number}"')


LOSS, STEP = gauge("loss"), gauge("step_timestamp_seconds")
AGE, EVERY = gauge("checkpoint_age"), gauge("checkpoint_every")
DEAD, DROPS = gauge("dead_experts", 'layer="3"'), gauge("drop_rate", 'layer="3"')
WAITS = gauge("state", 'state="waiting"')
QUEUE = 'vllm:num_requests_waiting{model_name="m"}'
ERRORS = 'vllm:request_success_total{model_name="m", finished_reason="error"}'
STAGES = [gauge("stage_seconds", f'stage="{number}"') for number in range(4)]

CASES = (
    Case("RaymoeLossDiverges", "rises", {LOSS: "3+0x60 3+0.1x40"}, 100, RUN),
    Case("RaymoeLossDiverges", "falls", {LOSS: "9-0.05x100"}, 100),
    Case("RaymoeLossDiverges", "one bad step", {LOSS: "3+0x60 30+0x0 3+0x40"}, 80),
    Case("RaymoeStalled", "no step", {STEP: "0+0x60", gauge("step_seconds"): "2+0x60"}, 11, RUN),
    Case("RaymoeStalled", "goes on", {STEP: "0+60x60", gauge("step_seconds"): "2+0x60"}, 60),
    Case("RaymoeStalled", "slow", {STEP: "0+0x60", gauge("step_seconds"): "120+0x60"}, 30),
    Case("RaymoeWaits", "for long", {WAITS: "0+0x5 1+0x30"}, 30, RUN),
    Case("RaymoeWaits", "for a while", {WAITS: "0+0x5 1+0x5 0+0x20"}, 30),
    Case("RaymoeRestarts", "drivers", {gauge("restarts"): "0+0x5 1+1x4"}, 10, RUN),
    Case("RaymoeRestarts", "ranks", {gauge("epoch"): "1+1x9"}, 9, RUN),
    Case("RaymoeRestarts", "one", {gauge("restarts"): "0+0x5 1+0x9"}, 10),
    Case("RaymoeRestarts", "long ago", {gauge("restarts"): "0+1x9 9+0x120"}, 120),
    Case("RaymoeCheckpointStale", "none", {AGE: "0+1x60", EVERY: "10+0x60"}, 30, RUN),
    Case("RaymoeCheckpointStale", "in time", {AGE: "0+1x10 0+1x10", EVERY: "10+0x60"}, 20),
    Case("RaymoeCheckpointStale", "at the end alone", {AGE: "0+1x60", EVERY: "0+0x60"}, 60),
    Case("RaymoeDeadExperts", "two", {DEAD: "2+0x60"}, 30, RUN | {"layer": "3"}),
    Case("RaymoeDeadExperts", "now and then", {DEAD: "2+0x9 0+0x0 2+0x9 0+0x0 2+0x9"}, 30),
    Case("RaymoeDropRate", "half", {DROPS: "0.5+0x60"}, 40, RUN | {"layer": "3"}),
    Case("RaymoeDropRate", "a fifth", {DROPS: "0.2+0x60"}, 40),
    Case(
        "RaymoeStraggler",
        "one of four",
        {**{rank(n): "1+0x30" for n in range(3)}, rank(3): "2+0x30"},
        20,
        RUN | {"stage": "0", "rank": "3"},
    ),
    Case(
        "RaymoeStraggler",
        "one of two",
        {rank(0): "1+0x30", rank(1): "3+0x30"},
        20,
        RUN | {"stage": "0", "rank": "1"},
    ),
    Case("RaymoeStraggler", "alike", {rank(n): f"{1 + n / 10}+0x30" for n in range(4)}, 20),
    Case("RaymoeStraggler", "alone", {rank(0): "1+0x30"}, 20),
    Case(
        "RaymoeStageSlow",
        "the last",
        {**dict.fromkeys(STAGES[:3], "1+0x30"), STAGES[3]: "2+0x30"},
        20,
        RUN | {"stage": "3"},
    ),
    Case("RaymoeStageSlow", "alike", dict.fromkeys(STAGES, "1+0x30"), 20),
    Case("RaymoeServerQueue", "always", {QUEUE: "3+0x30"}, 15, MODEL),
    Case("RaymoeServerQueue", "now and then", {QUEUE: "3+0x3 0+0x0 3+0x3 0+0x0 3+0x3"}, 11),
    Case("RaymoeServerErrors", "many", {ERRORS: "0+10x30"}, 15, MODEL),
    Case("RaymoeServerErrors", "long ago", {ERRORS: "5+0x30"}, 15),
)
