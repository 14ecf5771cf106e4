"""``raymoe init``: a model with random weights."""

from typing import Annotated

import typer

from moe.errors import ConfigError
from pipelines.screen.terminal import To, console, say

EXAMPLE = "raymoe init deepseek-moe-2b --to models/small --set layers=2"


def init(
    preset: Annotated[
        str, typer.Argument(help="Name of an architecture; `raymoe presets` lists them.")
    ],
    to: To,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one size: key=value. Repeatable.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Type of the weights: float32 or bfloat16.")
    ] = "float32",
) -> None:
    """Make a model with random weights, to train it from scratch."""
    import torch

    from moe.config.model_overrides import override
    from moe.config.presets import preset as find
    from moe.surgery.initialise import initialise
    from pipelines.screen.progress import counted

    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in types:
        raise ConfigError(f"no type {dtype!r}; choose {' or '.join(types)}")
    config = override(find(preset).config, set_ or ())
    with counted(console, "initialising", "MB") as progress:
        initialise(config, to, seed, types[dtype], progress, preset)
    say(f"wrote {to}")
