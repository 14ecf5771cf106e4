"""Applying and deleting what raymoe rendered: all or nothing, twice the same as once."""

import base64
import binascii
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from cluster.kube.api import Api
from cluster.kube.changes import Change, change
from cluster.kube.kinds import BUDGET, CONFIG_MAP, POD, SECRET, Kind, kind_of
from cluster.kube.observed import COMPONENTS, Observed
from cluster.kuberay.scheduling import COMPONENT_LABEL, RUN_LABEL
from moe.errors import ClusterError, ConfigError

TOKEN_KEY = "auth_token"
POLL_SECONDS = 1.0

Table = dict[str, Any]
Tell = Callable[[str], object]


def changes_of(api: Api, tables: Iterable[Table]) -> list[tuple[Table, Change]]:
    """Return what applying the objects would do, and change nothing.

    ConfigError lists what stands in the way.
    """
    found = []
    for table in tables:
        there = _there(api, table)
        would = None if there is None else api.apply(kind_of(table), table, dry=True)
        found.append((table, change(table, there, would)))
    if refused := [each for _, each in found if each.what == "refuse"]:
        raise ConfigError("nothing was applied:\n" + "\n".join(f"  {each}" for each in refused))
    return found


def apply(api: Api, tables: Iterable[Table], tell: Tell, seconds: float) -> list[Change]:
    """Apply the objects in their order; wait at most so many seconds for older ones to go."""
    found = changes_of(api, tables)
    for table, each in found:
        if each.what == "wait":
            tell(f"{each.kind}/{each.name}: waiting until the older one is deleted")
            _wait(partial(_there, api, table), each, seconds)
        if each.what != "keep":
            api.apply(kind_of(table), table)
        tell(str(each))
    return [each for _, each in found]


def delete(api: Api, kind: Kind, namespace: str, name: str, tell: Tell, seconds: float) -> None:
    """Delete an object, its files and its budget; wait until its pods have ended."""
    selector = f"{RUN_LABEL}={name},{COMPONENT_LABEL}={COMPONENTS[kind.name]}"
    gone = Change("wait", kind.name, name, "deleted")
    if api.delete(kind, namespace, name):
        tell(f"{kind.name}/{name}: its pods are ending")
    _wait(lambda: api.get(kind, namespace, name), gone, seconds)
    _wait(lambda: api.every(POD, namespace, selector) or None, gone, seconds)
    for other in (BUDGET, CONFIG_MAP):
        for table in api.every(other, namespace, selector):
            api.delete(other, namespace, table["metadata"]["name"])
    tell(str(gone))


def token(api: Api, namespace: str, observed: Observed) -> str:
    """Return the token of a Ray cluster, from its Secret."""
    if observed.cluster is None:
        raise ClusterError(f"{observed.kind}/{observed.name} has no Ray cluster yet; wait for it")
    options = observed.cluster["spec"].get("authOptions") or {}
    name = options.get("secretName") or observed.cluster["metadata"]["name"]
    secret = api.get(SECRET, namespace, name)
    if secret is None:
        raise ClusterError(
            f"Secret {name} with the token of {observed.name} is not there; KubeRay makes one with "
            "the cluster unless security.token_secret names your own"
        )
    try:
        return base64.b64decode(secret["data"][TOKEN_KEY], validate=True).decode()
    except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
        raise ClusterError(
            f"Secret {name} has no key {TOKEN_KEY} with a token; make it so: kubectl create secret "
            f"generic {name} --from-literal={TOKEN_KEY}=TOKEN"
        ) from None


def _there(api: Api, table: Table) -> Table | None:
    """Return the object that the server has in the place of one that is to be applied."""
    metadata = table["metadata"]
    return api.get(kind_of(table), metadata["namespace"], metadata["name"])


def _wait(there: Callable[[], Any], what: Change, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := there()) is not None:
        if time.monotonic() > deadline:
            metadata = left["metadata"] if isinstance(left, dict) else {}
            held = metadata.get("finalizers")
            because = f" ({', '.join(held)} holds it)" if held else ""
            raise ClusterError(
                f"{what.kind}/{what.name} is still there after {seconds:g} s{because}; see "
                f"`raymoe kube status {what.name}`, or wait longer with --seconds"
            )
        time.sleep(POLL_SECONDS)
