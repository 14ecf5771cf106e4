"""``raymoe merge``: an adapter into its model."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.screen.terminal import Model, To, caution, console, say

EXAMPLE = "raymoe merge models/base adapters/mine --to models/tuned"


def merge(
    model: Model,
    adapter: Annotated[Path, typer.Argument(help="Adapter directory in peft's format.")],
    to: To,
) -> None:
    """Add a LoRA adapter to the weights of its model; the receipt tells how far logits move."""
    from moe.checkpoint.reader import Checkpoint
    from moe.surgery.adapter import merge_adapter
    from pipelines.screen.progress import counted

    for line in Checkpoint.open(model).notes:
        caution(line)
    with counted(console, "merging", "MB") as progress:
        moved = merge_adapter(model, adapter, to, progress)
    say(f"logits move by at most {moved.max_absolute:.2e} ({moved.relative:.1e} relative)")
    say(f"wrote {to}")
