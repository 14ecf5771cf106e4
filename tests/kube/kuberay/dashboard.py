"""Ray's dashboard as KubeRay asks it: jobs, and the applications of Ray Serve."""

import base64
import json
import urllib.error
import urllib.request
from typing import Any

from cluster.kube.kinds import SECRET
from tests.kube.kuberay.clusters import pods_of
from tests.kube.kuberay.pods import DASHBOARD_PORT, TOKEN, secret_name
from tests.kube.objects import Objects
from tests.kube.store import Table

SECONDS = 30.0


class Silent(Exception):
    """The dashboard did not answer, or not yet."""


class Dashboard:
    """The dashboard of a Ray cluster."""

    def __init__(self, objects: Objects, cluster: Table) -> None:
        secret = objects.get(SECRET, secret_name(cluster))
        heads = pods_of(objects, cluster, "head")
        if secret is None or not heads:
            raise Silent("there is no head")
        self._token = base64.b64decode(secret["data"][TOKEN]).decode()
        self._url = f"http://{heads[0].get('status', {}).get('podIP')}:{DASHBOARD_PORT}"

    def job(self, name: str) -> Table | None:
        """Return what Ray says of a job; None if it knows none of the name."""
        return self._asked("GET", f"/api/jobs/{name}")

    def stop_job(self, name: str) -> None:
        self._asked("POST", f"/api/jobs/{name}/stop")

    def applications(self) -> Table:
        """Return the applications of Ray Serve, by name."""
        return dict((self._asked("GET", "/api/serve/applications/") or {}).get("applications", {}))

    def serve(self, config: Any) -> None:
        """Give Ray Serve a configuration."""
        self._asked("PUT", "/api/serve/applications/", config)

    def _asked(self, method: str, path: str, body: Any = None) -> Table | None:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return dict(json.loads(answer.read() or b"{}") or {})
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise Silent(f"{path}: {error.code} {error.read()[:300]!r}") from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise Silent(f"{path}: {error}") from error
