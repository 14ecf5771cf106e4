"""``raymoe metrics``: what Prometheus and Grafana need to watch runs and servers."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.screen.terminal import say

EXAMPLE = "raymoe metrics monitoring"


def metrics(
    to: Annotated[Path, typer.Argument(help="Directory to write the files into.")],
) -> None:
    """Write a dashboard for Grafana, alert rules, and where to scrape, as files.

    On Kubernetes: kubectl apply -k DIRECTORY. On machines: prometheus.yaml and rules.yaml for
    Prometheus, dashboard.json for Grafana. manifests/monitoring holds the same files.
    docs/guide/monitoring.md explains them.
    """
    from cluster.monitoring.files import write

    for path in write(to):
        say(f"wrote {path}")
