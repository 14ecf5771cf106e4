"""``raymoe evaluate``: held-out loss, and how the routers do."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from moe.errors import ConfigError
from pipelines.screen.terminal import Model, caution, console

if TYPE_CHECKING:
    from moe.nn.ablation import Ablation

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
    ablate: Annotated[
        list[str] | None,
        typer.Option(
            help="Also measure without a part of the routing: mask=1/16 passes over the best "
            "experts of each token, top-k=4 takes so many, no-shared drops the shared expert for "
            "one more routed; with commas together. May be given several times.",
            show_default=False,
        ),
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="With --ablate: also in each layer alone.")
    ] = False,
) -> None:
    """Measure the loss of a model on held-out text, and how its routers spread the tokens."""
    from pipelines.corpus.inputs import notes_on
    from pipelines.models.evaluate import EvaluateOptions, evaluate_ablated
    from pipelines.screen.model_tables import ablation_table, evaluation_table
    from pipelines.screen.progress import counted

    if split not in ("held_out", "train"):
        raise ConfigError(f"no split {split!r}; choose held_out or train")
    if per_layer and not ablate:
        raise ConfigError("--per-layer has no effect without --ablate; give that too")
    settings = settings_of(model, ablate or [], per_layer)
    for line in notes_on(model):
        caution(line)
    options = EvaluateOptions("train" if split == "train" else "held_out", rows, batch)
    with counted(console, "evaluating") as progress:
        whole, *others = evaluate_ablated(model, data, options, [None, *settings], progress)
    console.print(evaluation_table(escape(str(model)), whole))
    if settings:
        console.print(ablation_table(whole, list(zip(settings, others, strict=True))))


def settings_of(model: Path, asked: list[str], per_layer: bool) -> "list[Ablation]":
    """Return the ablations in order; with ``per_layer``, each is followed by those of one layer."""
    from moe.checkpoint.reader import Checkpoint
    from moe.nn.ablation import Ablation

    found = []
    layers = Checkpoint.open(model).config.moe_layers if per_layer else ()
    for text in asked:
        everywhere = Ablation.parsed(text)
        found += [everywhere, *(replace(everywhere, layer=layer) for layer in layers)]
    return found
