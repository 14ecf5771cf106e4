"""A plan as a file: TOML, or plain tables for JSON. Read strictly."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moe.errors import PlanError
from moe.planning import tables
from moe.planning.devices.inventory import CPU
from moe.planning.plan.plan import LayerExperts, Plan, RankPlan, StagePlan

_OPTIONAL = ("more", "seconds", "recompute", "placement")
_UNSAID = ("vocabulary", "memory_bytes", "resources", "labels", "accelerator")
"""Keys of a rank that are left out where there is nothing to say."""

_KEYS: Mapping[str, str] = {"expert_layout": "placement"}
"""Fields of a stage that files name otherwise: plan files have had this key from the first."""


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan as TOML."""
    tables.write(to_dict(plan), path, "plan")


def load_plan(path: Path) -> Plan:
    """Read a plan from TOML; PlanError says what is wrong with it."""
    remedy = f"make one with `raymoe plan MODEL --ray --to {path}`, or --inventory FILE"
    return tables.read(path, "plan", from_dict, remedy)


def to_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain tables, the form it has in TOML and JSON; None is left out."""
    return {"model": dict(plan.model), "stages": [_stage_table(stage) for stage in plan.stages]}


def digest(plan: Plan) -> str:
    """Return a name of a plan that no other plan has."""
    text = json.dumps(to_dict(plan), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def from_dict(table: Mapping[str, Any]) -> Plan:
    """Return the plan a table describes; PlanError names a key that is unknown or missing."""
    tables.check_keys("plan", table, ("model", "stages"))
    if not isinstance(table["model"], Mapping):
        raise PlanError(f"plan: model is {table['model']!r}; expected a table of sizes")
    stages = tables.entries("plan", "stages", table["stages"])
    plan = Plan(
        model={key: tables.whole("model", key, size) for key, size in table["model"].items()},
        stages=tuple(_stage(number, stage) for number, stage in enumerate(stages)),
    )
    plan.check_kinds()
    return plan


def _stage_table(stage: StagePlan) -> dict[str, Any]:
    table = asdict(stage) | {"ranks": [_rank_table(rank) for rank in stage.ranks]}
    written = [(_KEYS.get(field, field), value) for field, value in table.items()]
    return {key: value for key, value in written if key != "more" or value}


def _rank_table(rank: RankPlan) -> dict[str, Any]:
    """Return a rank without what it does not ask for."""
    table = asdict(rank) | {"resources": dict(rank.resources), "labels": dict(rank.labels)}
    return {key: value for key, value in table.items() if value or key not in _UNSAID}


def _stage(number: int, table: Mapping[str, Any]) -> StagePlan:
    label = f"stage {number}"
    tables.check_keys(label, table, ("layers", "ranks"), _OPTIONAL)
    ranks = tables.entries(label, "ranks", table["ranks"])
    layout = tables.entries(label, "placement", table.get("placement", ()))
    return StagePlan(
        layers=tables.span(label, "layers", table["layers"]),
        ranks=tuple(_rank(f"{label} rank {member}", rank) for member, rank in enumerate(ranks)),
        seconds=tables.number(label, "seconds", table.get("seconds", 0.0)),
        recompute=tables.wholes(label, "recompute", table.get("recompute", ())),
        expert_layout=tuple(_layer_experts(label, layer) for layer in layout),
        more=_spans(label, table.get("more", ())),
    )


def _spans(label: str, listed: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(listed, list | tuple):
        raise PlanError(f"{label}: more is {listed!r}; expected a list of spans, [[start, stop]]")
    return tuple(tables.span(label, "more", span) for span in listed)


def _layer_experts(label: str, table: Mapping[str, Any]) -> LayerExperts:
    label = f"{label} placement"
    tables.check_keys(label, table, ("layer", "experts"))
    if not isinstance(table["experts"], list | tuple):
        raise PlanError(f"{label}: experts is not a list; give a list of numbers for every rank")
    return LayerExperts(
        tables.whole(label, "layer", table["layer"]),
        tuple(tables.wholes(label, "experts", rank) for rank in table["experts"]),
    )


def _rank(label: str, table: Mapping[str, Any]) -> RankPlan:
    required = ("devices", "kv_heads", "ffn", "experts")
    tables.check_keys(label, table, required, ("threads", "kind", *_UNSAID))
    rows = table.get("vocabulary")
    return RankPlan(
        devices=tables.texts(label, "devices", table["devices"]),
        kv_heads=tables.span(label, "kv_heads", table["kv_heads"]),
        ffn=tables.span(label, "ffn", table["ffn"]),
        experts=tables.wholes(label, "experts", table["experts"]),
        threads=tables.whole(label, "threads", table.get("threads", 1)),
        kind=tables.text(label, "kind", table.get("kind", CPU)),
        vocabulary=None if rows is None else tables.span(label, "vocabulary", rows),
        memory_bytes=tables.whole(label, "memory_bytes", table.get("memory_bytes", 0)),
        resources=tables.amounts(label, "resources", table.get("resources", {})),
        labels=tables.words(label, "labels", table.get("labels", {})),
        accelerator=tables.text(label, "accelerator", table.get("accelerator", "")),
    )
