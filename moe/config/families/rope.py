"""The rotary part of a ``config.json``, in both of its forms."""

from collections.abc import Mapping
from typing import Any

from moe.config.model import RopeScaling
from moe.config.values import Table, count, number, require
from moe.errors import ConfigError


def read_rope(table: Table, default_theta: float) -> tuple[float, RopeScaling | None]:
    """Read ``rope_parameters``, or ``rope_theta`` with ``rope_scaling``, which takes precedence."""
    parameters = table.get("rope_scaling") or table.get("rope_parameters") or {}
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"config.json has rope parameters {parameters!r}; expected an object")
    for each in (table, parameters):
        require(each, "partial_rotary_factor", 1.0)
    theta = number(parameters, "rope_theta", number(table, "rope_theta", default_theta))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", number(parameters, "factor"))
    if kind != "llama3":
        raise ConfigError(f"rope type {kind!r} is not computed; known: default, linear, llama3")
    return theta, RopeScaling(
        kind="llama3",
        factor=number(parameters, "factor"),
        low_freq_factor=number(parameters, "low_freq_factor"),
        high_freq_factor=number(parameters, "high_freq_factor"),
        original_max_positions=count(parameters, "original_max_position_embeddings"),
    )


def rope_table(scaling: RopeScaling | None) -> dict[str, Any]:
    """Return the key, or nothing without scaling: transformers warns about the old name."""
    if scaling is None:
        return {}
    table: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        table |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return {"rope_scaling": table}
