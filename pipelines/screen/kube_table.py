"""A run or a server on Kubernetes, and findings about a cluster, as tables."""

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.kube.checks.finding import Finding
from cluster.kube.observed import Observed, role_of
from cluster.kube.standing import standing

MOST_PODS = 20
"""Pods that are listed; of more, those that run are counted."""
MOST_EVENTS = 5

_COLORS = {"failed": "red", "running": "green", "ready": "green", "finished": "green"}
_MARKS = {True: "ok", False: "wrong", None: "unknown"}


def page(observed: Observed, last_line: str = "") -> RenderableType:
    """Return where it stands, what the run said last, its conditions, pods and last events."""
    where = standing(observed)
    head = Text(f"{observed.kind}/{observed.name} ", style="bold")
    head.append(str(where), style=_COLORS.get(where.phase, "yellow"))
    parts: list[RenderableType] = [head]
    if last_line:
        parts.append(Text(f"its log: {last_line}"))
    if observed.conditions:
        parts.append(_conditions(observed.conditions))
    if observed.pods:
        parts.append(_pods(observed.pods))
    if observed.events:
        parts.append(_events(observed.events[-MOST_EVENTS:]))
    return Group(*parts)


def findings(found: Iterable[Finding]) -> Table:
    """Return one row for each check."""
    table = Table(box=box.SIMPLE, show_edge=False)
    for column in ("check", "", "found", "remedy"):
        table.add_column(column, overflow="fold")
    for each in found:
        color = {True: "green", False: "red", None: "yellow"}[each.good]
        table.add_row(
            each.what,
            Text(_MARKS[each.good], style=color),
            each.found,
            "" if each.good else each.remedy,
        )
    return table


def _conditions(conditions: tuple[tuple[str, dict[str, Any]], ...]) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False)
    for column in ("condition", "of", "is", "because"):
        table.add_column(column, overflow="fold")
    for whose, each in conditions:
        because = str(each.get("message") or each.get("reason") or "")
        table.add_row(str(each["type"]), whose, str(each["status"]), because)
    return table


def _pods(pods: tuple[dict[str, Any], ...]) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False)
    for column in ("pod", "role", "phase", "node", "restarts"):
        table.add_column(column, overflow="fold")
    running = [pod for pod in pods if _phase(pod) == "Running"]
    listed = list(pods)
    if len(pods) > MOST_PODS:
        listed = [pod for pod in pods if pod not in running][:MOST_PODS]
    for pod in listed:
        metadata, boxes = pod["metadata"], (pod.get("status") or {}).get("containerStatuses") or ()
        table.add_row(
            metadata["name"],
            role_of(pod),
            _phase(pod),
            (pod.get("spec") or {}).get("nodeName", ""),
            str(sum(each.get("restartCount", 0) for each in boxes)),
        )
    if len(listed) < len(pods):
        table.add_row(f"and {len(pods) - len(listed)} more, {len(running)} of all running")
    return table


def _events(events: tuple[dict[str, Any], ...]) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False)
    for column in ("event", "of", "message"):
        table.add_column(column, overflow="fold")
    for event in events:
        about = (event.get("involvedObject") or {}).get("name", "")
        table.add_row(str(event.get("reason", "")), about, str(event.get("message", "")))
    return table


def _phase(pod: dict[str, Any]) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    return str((pod.get("status") or {}).get("phase", "Pending"))
