"""``raymoe evaluate``: held-out loss, and how the routers do."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from moe.errors import ConfigError
from pipelines.screen.terminal import Model, caution, console

EXAMPLE = "raymoe evaluate models/moe --data tokens --rows 64"


def evaluate(
    model: Model,
    data: Annotated[Path, typer.Option(help="Directory that `raymoe tokenize` wrote.")],
    rows: Annotated[
        int | None,
        typer.Option(help="Number of sequences, spread evenly over the split.", show_default="all"),
    ] = None,
    split: Annotated[str, typer.Option(help="Part of the data: held_out or train.")] = "held_out",
    batch: Annotated[int, typer.Option(help="Sequences computed at a time.")] = 2,
) -> None:
    """Measure the loss of a model on held-out text, and how its routers spread the tokens."""
    from pipelines.corpus.inputs import notes_on
    from pipelines.models.evaluate import EvaluateOptions
    from pipelines.models.evaluate import evaluate as run
    from pipelines.screen.model_tables import evaluation_table
    from pipelines.screen.progress import counted

    if split not in ("held_out", "train"):
        raise ConfigError(f"no split {split!r}; choose held_out or train")
    for line in notes_on(model):
        caution(line)
    options = EvaluateOptions("train" if split == "train" else "held_out", rows, batch)
    with counted(console, "evaluating") as progress:
        result = run(model, data, options, progress)
    console.print(evaluation_table(escape(str(model)), result))
