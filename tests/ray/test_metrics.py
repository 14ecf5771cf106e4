"""Metrics as Prometheus sees them: scraped from a living Ray by a real server, with our files."""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from actors.commands import BuildCommand, RankReport, Waits
from actors.rank.gauges import Gauges
from cluster.metrics import Recorder
from cluster.monitoring.alerts import rules
from cluster.monitoring.scrape import prometheus
from cluster.session import Session
from moe.config.metrics import METRICS
from moe.config.run import MetricsSection
from moe.planning.plan.seats import Seat
from tests import runs
from tests.plans import SMOLLM2
from tests.ray.conftest import free_port

pytestmark = pytest.mark.ray

DEADLINE_SECONDS = 30
PROMETHEUS = shutil.which("prometheus")


def scrape() -> str:
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def sample(text: str, name: str, *labels: str) -> float | None:
    for line in text.splitlines():
        if line.startswith(name + "{") and all(label in line for label in labels):
            return float(line.rsplit(" ", 1)[1])
    return None


def until(look: Callable[[], Any], what: str) -> Any:
    """Return what is found once there is something."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def recorder(ray_session: Session) -> Recorder:
    """A run that has recorded each metric once: the n-th of the table has the value n."""
    made = Recorder("probe-run")
    for number, entry in enumerate(METRICS, start=1):
        made.record(entry.name, number, **dict.fromkeys(entry.tags, 3))
    made.record("tokens", 0)
    made.record("tokens", 100)
    return made


@pytest.fixture(scope="module")
def moved(ray_session: Session) -> None:
    """A process that was rank 0, and has become rank 1 of the next stage."""
    run = runs.run_config(Path("model")).model_copy(
        update={"name": "probe-ranks", "metrics": MetricsSection(detail="full")}
    )
    plan, gauges = runs.plan(SMOLLM2, (15, 15)), Gauges()
    report = RankReport(0, 1, None, 1.0, 0.1, {}, 2.0, 100, Waits(stages=0.5))
    for stage in (0, 1):
        gauges.tell(BuildCommand(plan, Seat(0, stage, 0), 8, run), report)


@pytest.fixture(scope="module")
def text(recorder: Recorder, moved: None) -> str:
    """What the node exports, once it has all of the probes."""
    names = [entry.exported_name for entry in METRICS]

    def all_of_it() -> str:
        found = scrape()
        probes = [sample(found, name, 'run="probe-run"') for name in names]
        ranks = sample(found, "ray_raymoe_rank_wait_seconds", 'run="probe-ranks"')
        return found if None not in (*probes, ranks) else ""

    return str(until(all_of_it, "all metrics"))


def test_every_metric_reaches_the_endpoint_of_the_node(text: str) -> None:
    names = [entry.name for entry in METRICS]
    total = sample(text, "ray_raymoe_tokens_total", 'run="probe-run"')
    assert total == names.index("tokens") + 1 + 100
    load = sample(text, "ray_raymoe_expert_load", 'layer="3"', 'expert="3"')
    assert load == names.index("expert_load") + 1


def test_a_process_that_becomes_another_rank_tells_of_that_rank_alone(text: str) -> None:
    own = 'run="probe-ranks"'
    assert sample(text, "ray_raymoe_rank_compute_seconds", own, 'rank="0"') is None
    assert sample(text, "ray_raymoe_rank_compute_seconds", own, 'rank="1"', 'stage="1"') == 1.5
    waits = 'rank="1"', 'waits="stages"'
    assert sample(text, "ray_raymoe_rank_wait_seconds", own, *waits) == 0.5


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_prometheus_has_nothing_to_say_against_our_names_and_texts(text: str) -> None:
    ours = "".join(f"{line}\n" for line in text.splitlines() if "ray_raymoe_" in line)
    tags = re.sub('(Component|NodeAddress|SessionName|Version|WorkerId)="[^"]*",', "", ours)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=tags, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_a_gauge_that_was_set_once_stays(text: str) -> None:
    time.sleep(30)  # Ray forgets a gauge after two of its intervals
    assert sample(scrape(), "ray_raymoe_ranks", 'run="probe-run"') is not None
    assert sample(scrape(), "ray_raymoe_rank_compute_seconds", 'run="probe-ranks"') is not None


class Server:
    """A Prometheus that runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    def series(self, query: str) -> list[dict[str, Any]]:
        """Return what a query finds now; nothing while the server starts."""
        asked = urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/query?{asked}", timeout=5) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except OSError:
            return []
        return found


@pytest.fixture
def server(recorder: Recorder, tmp_path: Path) -> Iterator[Server]:
    """A Prometheus with our files, which looks every second; it finds Ray by Ray's own list."""
    if PROMETHEUS is None:
        pytest.skip("Prometheus is not here; make prometheus installs it (Debian)")
    targets = Path(ray._private.worker._global_node.get_temp_dir_path())
    table = prometheus(str(targets / "prom_metrics_service_discovery.json"))
    table["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(table))
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    port = free_port()
    process = subprocess.Popen(
        [
            PROMETHEUS,
            f"--config.file={tmp_path / 'prometheus.yaml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    try:
        yield Server(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(10)


def test_prometheus_finds_ray_stores_series_of_runs_and_raises_an_alert(
    server: Server, text: str
) -> None:
    (loss,) = until(lambda: server.series('ray_raymoe_loss{run="probe-run"}'), "a gauge")
    assert "WorkerId" not in loss["metric"]
    (tokens,) = server.series('ray_raymoe_tokens_total{run="probe-run"}')
    assert re.fullmatch("[0-9a-f]+", tokens["metric"]["WorkerId"])
    alert = 'ALERTS{alertname="RaymoeStalled", run="probe-run", alertstate="firing"}'
    until(lambda: server.series(alert), "an alert")
