import time
import urllib.request

import pytest
import ray

from cluster.metrics import Recorder
from cluster.session import Session
from moe.config.metrics import METRICS

pytestmark = pytest.mark.ray

DEADLINE_SECONDS = 30


def _scrape() -> str:
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def _sample(text: str, name: str, *labels: str) -> float | None:
    for line in text.splitlines():
        if line.startswith(name + "{") and all(label in line for label in labels):
            return float(line.rsplit(" ", 1)[1])
    return None


def test_every_metric_reaches_the_prometheus_endpoint(ray_session: Session) -> None:
    recorder = Recorder("probe-run")
    for number, entry in enumerate(METRICS, start=1):
        recorder.record(entry.name, number, **dict.fromkeys(entry.tags, 3))
    recorder.record("tokens", 0)
    recorder.record("tokens", 100)
    wanted = {entry.exported_name for entry in METRICS}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        text = _scrape()
        missing = {name for name in wanted if _sample(text, name, 'run="probe-run"') is None}
        total = _sample(text, "ray_raymoe_tokens_total", 'run="probe-run"')
        if not missing and total is not None and total >= 100:
            break
        assert time.monotonic() < deadline, f"not exported in time: {sorted(missing)}"
        time.sleep(0.2)
    names = [entry.name for entry in METRICS]
    assert total == names.index("tokens") + 1 + 100
    load = _sample(text, "ray_raymoe_expert_load", 'layer="3"', 'expert="3"')
    assert load == names.index("expert_load") + 1
