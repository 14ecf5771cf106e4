"""The dashboard for Grafana: a row for each section of the table, a panel for each metric.

Its panels are made by the generator of Ray's own dashboards, so that they look and load like those.
"""

import json
from collections.abc import Iterator
from typing import Any, cast

from ray.dashboard.modules.metrics import grafana_dashboard_factory
from ray.dashboard.modules.metrics.dashboards.common import DashboardConfig, Panel, Row, Target

from cluster.monitoring.server import ENDED, FIGURES, MODEL
from moe.config.metrics import RUN, SECTIONS, Metric, metric

UID = "raymoe"
MOST_LINES = 20
"""Lines of a panel whose metric has a series for each expert or rank: the largest."""

_UNITS = {
    "seconds": "s",
    "seconds since 1970": "s",
    "bytes": "bytes",
    "fraction": "percentunit",
    "FLOP/s": "flops",
}
"""Units of the table in Grafana; others are plain numbers."""


def dashboard() -> str:
    """Return the dashboard as JSON."""
    config = DashboardConfig(UID, UID, [], "", rows=list(_rows()))
    panels = cast(Any, grafana_dashboard_factory)._generate_grafana_panels(config, [], "")
    table = {
        "title": "raymoe",
        "uid": UID,
        "tags": ["raymoe"],
        "schemaVersion": 27,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), *_choices()]},
        "panels": panels,
    }
    return json.dumps(table, indent=1) + "\n"


def _rows() -> Iterator[Row]:
    """Yield the rows; panels are numbered in their order."""
    for place, (title, metrics) in enumerate(SECTIONS.items(), start=1):
        first = 100 * place
        panels = [_panel(entry, first + n) for n, entry in enumerate(metrics, start=1)]
        yield Row(title=title, id=first, panels=panels)
    first += 100
    yield Row(title="Server", id=first, panels=list(_server(first)))


def _server(first: int) -> Iterator[Panel]:
    for number, (title, unit, queries) in enumerate(FIGURES, start=first + 1):
        targets = [Target(expr=_escaped(query), legend=legend) for legend, query in queries]
        yield _plain(number, title, title, unit, targets)


def _panel(entry: Metric, number: int) -> Panel:
    title = entry.name.removesuffix("_timestamp_seconds").replace("_", " ").capitalize()
    query, by = entry.exported_name, ", ".join(entry.labels)
    query += f'{{{RUN}=~"$run"}}'
    if entry.kind == "counter":
        query = f"sum by ({by}) (increase({query}[$__range]))"
    elif entry.unit == "seconds since 1970":
        title, query = f"Time since the last {title.lower()}", f"time() - max by ({by}) ({query})"
    elif entry.in_full or entry.source == "rank":
        query = f"topk({MOST_LINES}, max by ({by}) ({query}))"
    else:
        query = f"max by ({by}) ({query})"
    legend = " ".join(f"{{{{{tag}}}}}" for tag in entry.labels)
    target = Target(expr=_escaped(query), legend=legend)
    unit = _UNITS.get(entry.unit, "short")
    return _plain(number, title, f"{entry.help} {entry.exported_name}", unit, [target])


def _plain(number: int, title: str, description: str, unit: str, targets: list[Target]) -> Panel:
    """Return a panel of lines that are not stacked."""
    return Panel(title, description, number, unit, targets, fill=0, stack=False)


def _escaped(query: str) -> str:
    """Return a query whose braces the generator leaves as they are."""
    return query.replace("{", "{{").replace("}", "}}")


def _source() -> dict[str, Any]:
    """Return the variable for the source of data, which Ray's panels name."""
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2}


def _choices() -> Iterator[dict[str, Any]]:
    """Yield the variables by which a reader chooses runs and served models."""
    yield _choice("run", f"label_values({metric('step').exported_name}, {RUN})")
    yield _choice("model", f"label_values({ENDED}, {MODEL})")


def _choice(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": "${datasource}",
        "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "sort": 1,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }
