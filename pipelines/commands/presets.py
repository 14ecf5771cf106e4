"""``raymoe presets``: the architectures of the papers."""

from pipelines.screen.terminal import console

EXAMPLE = "raymoe presets"


def presets() -> None:
    """List the architectures of papers that `raymoe init` can make."""
    from pipelines.screen.preset_table import preset_table

    console.print(preset_table())
