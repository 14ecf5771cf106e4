"""When the worker pods of a server are ready for requests."""

from typing import Any

from cluster.kuberay.scheduling import SERVING

SERVE_PORT = 8000
"""Where Ray Serve's proxies listen."""


def readiness(component: str) -> dict[str, Any]:
    """Return the probe of a worker's container: of a server's, whether Ray Serve's proxy listens.

    KubeRay moves the requests to a new cluster once its application runs. Its own probe asks every
    five seconds whether the proxy has a replica: until it asks again no pod is ready, and requests
    fail. A proxy listens before its replica is ready. Other workers have KubeRay's probe.
    """
    if component != SERVING:
        return {}
    listens = {"tcpSocket": {"port": SERVE_PORT}, "periodSeconds": 1, "failureThreshold": 3}
    return {"readinessProbe": listens}
