"""The number of experts, and the layers without experts, from ``config.json``."""

from moe.config.values import Table, count
from moe.errors import ConfigError


def expert_count(table: Table, default: int) -> int:
    """Return the number of experts under either of its two names."""
    names = ("num_experts", "num_local_experts")
    found = [count(table, name) for name in names if table.get(name) is not None]
    if len(set(found)) > 1:
        raise ConfigError(
            f"config.json has num_experts = {found[0]} and num_local_experts = {found[1]}; "
            "they are two names of one number, remove one"
        )
    return found[0] if found else default


def dense_layers(table: Table) -> tuple[int, ...]:
    """Return the layers without experts: the listed layers, and the layers that
    ``decoder_sparse_step`` skips.
    """
    layers, step = count(table, "num_hidden_layers"), count(table, "decoder_sparse_step", 1)
    listed = table.get("mlp_only_layers") or []
    if not isinstance(listed, list) or any(number not in range(layers) for number in listed):
        raise ConfigError(
            f"config.json has mlp_only_layers = {listed!r}; expected a list of layer numbers "
            f"from 0 to {layers - 1}"
        )
    return tuple(layer for layer in range(layers) if layer in listed or (layer + 1) % step)
