"""A kubeconfig that leads to an API server in memory."""

from pathlib import Path

import pytest
import yaml

from cluster.kube.api import Api


def lead_to(api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every client of this process find the server."""
    table = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": api.host}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "raymoe"}}
        ],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(table))
    # The client reads the variable KUBECONFIG once, when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
