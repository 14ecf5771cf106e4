"""A run as the table of a run file, for a process that is in the cluster already."""

from typing import Any

from moe.config.run import RunConfig


def run_table(run: RunConfig) -> dict[str, Any]:
    """Return what the file of the run says; its Ray is the one that is there."""
    table = run.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    table["cluster"] = table.get("cluster", {}) | {"address": "auto"}
    table["cluster"].pop("cpus", None)
    return table
