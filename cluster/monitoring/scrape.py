"""From where Prometheus takes figures: on machines by Ray's list of targets, on Kubernetes by pod.

Ray names the process of a metric in the tag ``WorkerId``, so that each new process would begin new
series. Gauges of the table are stored without it: a process that ends takes its gauges with it. A
counter keeps the tag, because Ray's node keeps the counters of processes that have ended.
"""

from typing import Any

from moe.config.metrics import METRICS

TARGETS = "/tmp/ray/prom_metrics_service_discovery.json"
"""Where Ray's head writes its list of targets, unless ``ray start --temp-dir`` says otherwise."""

_WORKER = "WorkerId"
_CLUSTER = {
    "sourceLabels": ["__meta_kubernetes_pod_label_ray_io_cluster"],
    "targetLabel": "ray_io_cluster",
}
_API = "monitoring.coreos.com/v1"


def prometheus(targets: str = TARGETS, rules: str = "rules.yaml") -> dict[str, Any]:
    """Return a configuration of Prometheus for Ray on machines; paths are from its own place."""
    return {
        "global": {"scrape_interval": "10s", "evaluation_interval": "10s"},
        "rule_files": [rules],
        "scrape_configs": [
            {
                "job_name": "ray",
                "file_sd_configs": [{"files": [targets], "refresh_interval": "30s"}],
                "metric_relabel_configs": [
                    {
                        "source_labels": ["__name__"],
                        "regex": _gauges(),
                        "target_label": _WORKER,
                    }
                ],
            }
        ],
    }


def monitors() -> list[dict[str, Any]]:
    """Return what tells Prometheus's operator of the pods of runs and of the ports of servers."""
    head = [_endpoint(port) for port in ("metrics", "as-metrics", "dash-metrics")]
    return [
        _monitor("raymoe-head", "head", head),
        _monitor("raymoe-workers", "worker", [_endpoint("metrics")]),
        {
            "apiVersion": _API,
            "kind": "ServiceMonitor",
            "metadata": {"name": "raymoe-servers"},
            "spec": {
                "selector": {"matchExpressions": [{"key": "ray.io/serve", "operator": "Exists"}]},
                "endpoints": [{"port": "serve", "path": "/metrics", "interval": "15s"}],
            },
        },
    ]


def prometheus_rule(rules: dict[str, Any]) -> dict[str, Any]:
    """Return rules as an object of Prometheus's operator."""
    metadata = {"name": "raymoe"}
    return {"apiVersion": _API, "kind": "PrometheusRule", "metadata": metadata, "spec": rules}


def _monitor(name: str, node: str, endpoints: list[dict[str, Any]]) -> dict[str, Any]:
    selector = {
        "matchLabels": {"ray.io/node-type": node},
        "matchExpressions": [{"key": "raymoe/run", "operator": "Exists"}],
    }
    return {
        "apiVersion": _API,
        "kind": "PodMonitor",
        "metadata": {"name": name},
        "spec": {"selector": selector, "podMetricsEndpoints": endpoints},
    }


def _endpoint(port: str) -> dict[str, Any]:
    """Return a port of a pod, whose series say of which Ray cluster they are."""
    dropped = {"sourceLabels": ["__name__"], "regex": _gauges(), "targetLabel": _WORKER}
    return {
        "port": port,
        "interval": "15s",
        "relabelings": [_CLUSTER],
        "metricRelabelings": [dropped],
    }


def _gauges() -> str:
    """Return what matches the gauges of runs; the empty group becomes the value of the tag, which
    removes it.
    """
    names = "|".join(entry.name for entry in METRICS if entry.kind == "gauge")
    return f"ray_raymoe_(?:{names})()"
