"""``raymoe compress``: a model to a smaller one."""

from pathlib import Path
from typing import Annotated

import typer

from moe.errors import ConfigError
from pipelines.screen.terminal import Model, To, caution, console, say

EXAMPLE = "raymoe compress models/moe --to models/small --experts 4 --mix usage --data tokens"
METHOD, ROWS = "merge", 16


def compress(
    model: Model,
    to: To,
    experts: Annotated[
        int | None,
        typer.Option(help="Experts of each layer that are left.", show_default="all"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="How experts become fewer: prune or merge.", show_default=METHOD),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="For prune: keep by traffic, reach (mean length of weighted outputs) or random.",
            show_default="traffic",
        ),
    ] = None,
    similar: Annotated[
        str | None,
        typer.Option(
            help="For merge: cluster experts by their weights or by their outputs.",
            show_default="weights",
        ),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            help="For merge: shares that are uniform, by usage, or by least-squares.",
            show_default="uniform",
        ),
    ] = None,
    quantise: Annotated[
        str | None,
        typer.Option(
            help="Store matrices as int8, int4, fp8 or fp8-blocks.", show_default="as they are"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Directory that `raymoe tokenize` wrote: its training text is measured on, its "
            "held-out text gives the loss before and after.",
            show_default="none",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(help="With --data: sequences of either text.", show_default=str(ROWS)),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Make a model smaller: fewer experts, fewer bits; the receipt tells what it costs."""
    from moe.checkpoint.reader import Checkpoint
    from moe.surgery.shrink.compress import compress as run
    from moe.surgery.shrink.methods import shrink_method_named
    from moe.surgery.shrink.options import CompressOptions
    from moe.surgery.text import Texts
    from pipelines.models.text import text_from
    from pipelines.screen.compress_table import compress_table
    from pipelines.screen.progress import counted

    chosen = {"by": by, "similar": similar, "mix": mix}
    given = [name for name, value in {"method": method, **chosen}.items() if value is not None]
    if experts is None and given:
        raise ConfigError(f"--{given[0]} has no effect without --experts; give that too")
    if experts is None and quantise is None:
        raise ConfigError("there is nothing to do; give --experts or --quantise")
    if data is None and rows is not None:
        raise ConfigError(f"--rows {rows} has no effect without --data; give that too")
    fewer = None if experts is None else shrink_method_named(method or METHOD, chosen)
    options = CompressOptions(experts, fewer, quantise, seed)
    for line in Checkpoint.open(model).notes:
        caution(line)
    texts = None
    if data is not None:
        count = ROWS if rows is None else rows
        texts = Texts(
            text_from(model, data, "train", count), text_from(model, data, "held_out", count)
        )
    with counted(console, "compressing", "MB") as progress:
        done = run(model, to, options, texts, progress)
    console.print(compress_table(done))
    say(f"wrote {to}")
