"""The architecture of a model that a person names: a directory, or a preset."""

from pathlib import Path

from moe.checkpoint.architecture import Architecture, read_architecture
from moe.config.overrides import hint
from moe.config.presets import PRESETS
from moe.errors import ConfigError


def architecture_of(model: str) -> Architecture:
    """Return the architecture of a model directory or a preset, and notes on how it is read.

    No weights are read, unless they tell whether the head is tied to the embedding.
    """
    if Path(model).is_dir():
        return read_architecture(Path(model))
    if model not in PRESETS:
        raise ConfigError(
            f"{model} is neither a model directory with a config.json nor a preset; "
            f"{hint(model, PRESETS)}"
        )
    return Architecture(PRESETS[model].config)
