"""The dashboard, the alerts and the monitors: as the table says, and as Prometheus takes them."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cluster.kuberay.pods import HEAD_PORTS, RUN_LABEL
from cluster.monitoring.alerts import ALERTS
from cluster.monitoring.files import contents, write
from cluster.monitoring.grafana import dashboard
from cluster.monitoring.scrape import monitors
from moe.config.metrics import METRICS
from pipelines.serving.telemetry import Telemetry
from tests.manifests.alerts import CASES

MONITORING = Path(__file__).parents[2] / "manifests" / "monitoring"
NAMES = {entry.exported_name for entry in METRICS}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not here; make prometheus installs it (Debian)",
)


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def panels() -> list[dict[str, Any]]:
    return [each for each in json.loads(dashboard())["panels"] if each["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def served() -> set[str]:
    """Return the names of the samples that a server tells of."""
    telemetry = Telemetry("m")
    telemetry.ended("error", 1, 1, 1.0)
    families = text_string_to_metric_families(telemetry.text().decode())
    return {sample.name for family in families for sample in family.samples}


def test_the_files_are_what_the_table_says(tmp_path: Path) -> None:
    written = {path.name: path.read_text() for path in write(tmp_path / "new")}
    assert written == contents()
    assert written == {path.name: path.read_text() for path in MONITORING.iterdir()}, (
        "run: raymoe metrics manifests/monitoring"
    )


def test_the_dashboard_has_a_panel_for_each_metric_and_no_number_twice() -> None:
    used = set(re.findall(r"ray_raymoe_\w+", " ".join(queries())))
    assert used == NAMES
    numbers = [panel["id"] for panel in panels()]
    assert len(set(numbers)) == len(numbers)


def test_dashboard_and_alerts_name_nothing_that_is_not_exported() -> None:
    text = " ".join([*queries(), *(alert.query for alert in ALERTS)])
    assert set(re.findall(r"ray_raymoe_\w+", text)) <= NAMES
    of_servers = set(re.findall(r"vllm:\w+", text))
    assert of_servers
    assert of_servers <= served()


@needs_promtool
def test_prometheus_takes_rules_and_configuration() -> None:
    promtool("check", "rules", "--lint-fatal", MONITORING / "rules.yaml")
    promtool("check", "config", MONITORING / "prometheus.yaml")


@needs_promtool
def test_prometheus_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    values = {"$__rate_interval": "5m", "$__range": "1h", "$run": ".*", "$model": ".*"}
    rules = []
    for number, query in enumerate(queries()):
        for variable, value in values.items():
            query = query.replace(variable, value)
        rules.append({"record": f"q{number}", "expr": query})
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_every_alert_is_tried() -> None:
    assert {case.alert for case in CASES} == {alert.name for alert in ALERTS}


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    file = tmp_path / "alerts.yaml"
    tests = {
        "rule_files": [str(MONITORING / "rules.yaml")],
        "evaluation_interval": "1m",
        "tests": [case.table() for case in CASES],
    }
    file.write_text(yaml.safe_dump(tests))
    promtool("test", "rules", file)


def test_monitors_name_ports_and_labels_that_pods_have() -> None:
    pods = [each for each in monitors() if each["kind"] == "PodMonitor"]
    for monitor in pods:
        labels = [each["key"] for each in monitor["spec"]["selector"]["matchExpressions"]]
        assert labels == [RUN_LABEL]
    head, workers = ([each["port"] for each in m["spec"]["podMetricsEndpoints"]] for m in pods)
    assert {*head} <= HEAD_PORTS.keys()
    assert workers == ["metrics"]  # KubeRay adds this port to workers


@pytest.mark.parametrize("kept", ["ray_raymoe_tokens_total", "ray_tasks", "ray_raymoe_steps"])
def test_only_gauges_of_ours_lose_the_tag_of_their_process(kept: str) -> None:
    (endpoint,) = monitors()[1]["spec"]["podMetricsEndpoints"]
    (dropped,) = endpoint["metricRelabelings"]
    assert dropped["targetLabel"] == "WorkerId"
    pattern = re.compile(dropped["regex"])
    gauges = [entry.exported_name for entry in METRICS if entry.kind == "gauge"]
    assert {pattern.fullmatch(name)[1] for name in gauges} == {""}  # type: ignore[index]
    assert pattern.fullmatch(kept) is None


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_kustomize_makes_a_map_of_the_dashboard_that_grafana_finds() -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", str(MONITORING)], capture_output=True, text=True, check=True
    )
    objects = {each["kind"]: each for each in yaml.safe_load_all(built.stdout)}
    assert objects.keys() == {"ConfigMap", "PodMonitor", "PrometheusRule", "ServiceMonitor"}
    found = objects["ConfigMap"]
    assert found["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(found["data"]["raymoe.json"]) == json.loads(dashboard())
