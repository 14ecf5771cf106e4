"""The presets on one screen: size and description."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from moe.config.presets import PRESETS
from moe.config.tensors import active_parameters, parameters


def preset_table() -> Table:
    """Return one row per preset; parameters in billions, counted from the tensor table."""
    table = Table(
        caption="parameters in billions, embedding and head included",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("name", no_wrap=True)
    for heading in ("total\nB", "active\nB", "layers", "hidden"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what")
    for name, preset in PRESETS.items():
        config = preset.config
        table.add_row(
            name,
            f"{parameters(config) / 1e9:.2f}",
            f"{active_parameters(config) / 1e9:.2f}",
            str(config.layers),
            str(config.hidden_size),
            preset.about,
        )
    return table
