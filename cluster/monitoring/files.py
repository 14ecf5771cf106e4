"""The files by which a platform takes all of it in: for Kubernetes, and for machines."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from cluster.monitoring.alerts import rules
from cluster.monitoring.grafana import dashboard
from cluster.monitoring.scrape import monitors, prometheus, prometheus_rule

_HEAD = "# Written by `raymoe metrics`; change the table in moe/config/metrics.py instead.\n"


def contents() -> Mapping[str, str]:
    """Return the text of each file by its name."""
    alerts = rules()
    return {
        "dashboard.json": dashboard(),
        "rules.yaml": _text([alerts]),
        "prometheus.yaml": _text([prometheus()]),
        "monitors.yaml": _text(monitors()),
        "prometheus-rule.yaml": _text([prometheus_rule(alerts)]),
        "kustomization.yaml": _text([_kustomization()]),
    }


def write(directory: Path) -> list[Path]:
    """Write the files into a directory; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in contents().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def _kustomization() -> dict[str, object]:
    """Return what makes a ConfigMap of the dashboard; Grafana's sidecar finds it by its label."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["monitors.yaml", "prometheus-rule.yaml"],
        "configMapGenerator": [
            {
                "name": "raymoe-dashboard",
                "files": ["raymoe.json=dashboard.json"],
                "options": {"labels": {"grafana_dashboard": "1"}, "disableNameSuffixHash": True},
            }
        ],
    }


def _text(documents: list[dict[str, object]]) -> str:
    return _HEAD + yaml.safe_dump_all(documents, sort_keys=False, width=100)
