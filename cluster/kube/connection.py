"""The connection to an API server, by a kubeconfig or by the account of the pod we run in."""

from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.config import ConfigException

from moe.errors import ClusterError

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def connect(context: str | None = None, kubeconfig: Path | None = None) -> Any:
    """Return a client; without a kubeconfig, and if none is asked for, that of the current pod.

    ``context`` names a context of the kubeconfig; the default is its current context.
    """
    given = None if kubeconfig is None else str(kubeconfig)
    settings = client.Configuration()
    settings.retries = False  # who asks knows which requests may be sent again
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=given, context=context, client_configuration=settings
        )
        return client.ApiClient(settings)
    except (ConfigException, OSError, yaml.YAMLError) as error:
        if context is None and given is None:
            try:
                config.load_incluster_config(  # type: ignore[no-untyped-call]
                    client_configuration=settings
                )
                return client.ApiClient(settings)
            except ConfigException:
                pass
        wish = f"context {context} of " if context else ""
        raise ClusterError(
            f"asked for {wish}{given or 'the kubeconfig'}, which cannot be used: {error}; set "
            "KUBECONFIG, name one of its contexts, or save the nodes with `kubectl get nodes -o "
            "json`"
        ) from error


def namespace_of(context: str | None = None) -> str:
    """Return the namespace of a context of the kubeconfig, or of the pod we run in; as kubectl."""
    try:
        every, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except (ConfigException, OSError, yaml.YAMLError):
        return _OWN_NAMESPACE.read_text().strip() if _OWN_NAMESPACE.is_file() else "default"
    chosen = next((each for each in every if each["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")
