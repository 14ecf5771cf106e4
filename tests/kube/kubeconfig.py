"""A kubeconfig that leads to an API server in memory."""

from pathlib import Path

import pytest
import yaml

from cluster.kube.api import Api


def lead_to(api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every client of this process find the server."""
    # The client reads the variable KUBECONFIG once, when it is imported.
    location = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(location, str(written(api, folder)))


def written(api: Api, folder: Path, certificate: Path | None = None) -> Path:
    """Write a kubeconfig into a folder; a server with a certificate is trusted by it."""
    server = {"server": api.host}
    server |= {} if certificate is None else {"certificate-authority": str(certificate)}
    table = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": server}],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "raymoe"}}
        ],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(table))
    return path
