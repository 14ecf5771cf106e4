"""``raymoe evaluate``: held-out loss and how the routers do, and scores on tasks."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from moe.errors import ConfigError
from pipelines.screen.terminal import Model, caution, console, say

if TYPE_CHECKING:
    from moe.nn.ablation import Ablation
    from pipelines.models.evaluate import EvaluateOptions
    from pipelines.models.scoring.engines import Where

EXAMPLE = "raymoe evaluate models/moe --data tokens --rows 64"
BATCH = {"data": 2, "tasks": 8}


def evaluate(
    model: Model,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Directory that `raymoe tokenize` wrote: measure the loss.", show_default="none"
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Number of sequences, spread evenly over the split; with --window the first ones.",
            show_default="all",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Part of the data: held_out or train.", show_default="held_out"),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Read the split as one text, in windows of so many tokens that overlap: the loss "
            "of tokens with much before them.",
            show_default="each sequence by itself",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="With --window: tokens by which a window moves.", show_default="half a window"
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Sequences computed at a time; with --tasks, prompts.",
            show_default="2; of tasks 8",
        ),
    ] = None,
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
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks of lm-eval, with commas between: names, task files (.yaml), or directories "
            "of them. Needs the extra raymoe[eval].",
            show_default="none",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="With --tasks: rows of each task.", show_default="all")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            help="With --tasks: tokens of a prompt and its answer, the last ones where it is "
            "longer.",
            show_default="as many as the model takes, up to 8192",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Plan file, TOML: compute on the actors of this plan, on Ray.",
            show_default="this process computes",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="With --plan: the Ray cluster. local starts one here; auto or HOST:PORT joins "
            "one.",
            show_default="local",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures there.")] = None,
) -> None:
    """Measure the loss of a model on held-out text, how its routers spread the tokens, and its
    scores on tasks.
    """
    from moe.checkpoint.writer import write_json
    from pipelines.corpus.inputs import notes_on
    from pipelines.models.scoring.tasks import check_harness
    from pipelines.planning.output import output

    _check(
        {"data": data, "tasks": tasks, "plan": plan, "window": window, "ablate": ablate},
        {
            "data": {
                "rows": rows,
                "split": split,
                "window": window,
                "ablate": ablate,
            },
            "tasks": {"limit": limit, "length": length},
            "plan": {"address": address},
            "window": {"stride": stride},
            "ablate": {"per-layer": per_layer or None},
        },
    )
    if tasks is not None:
        check_harness()
    settings = settings_of(model, ablate or [], per_layer)
    kept = None if json is None else output("--json", json)
    for line in notes_on(model):
        caution(line)
    where = _where(model, plan, address)
    found: dict[str, Any] = {"model": str(model)}
    if data is not None:
        options = _options(split, rows, batch, window, stride)
        found["text"] = _measure(model, data, options, settings, where)
    if tasks is not None:
        found["tasks"] = _score(model, tasks, (limit, batch, length), where)
    if kept is not None:
        write_json(kept.path, found)
        say(kept.told)


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


def _check(given: dict[str, Any], needing: dict[str, dict[str, Any]]) -> None:
    """Refuse options without effect: those that go with another that is not given."""
    if given["data"] is None and given["tasks"] is None:
        raise ConfigError("nothing to evaluate on; give --data, --tasks or both")
    if given["plan"] is not None and given["ablate"]:
        raise ConfigError("--ablate is measured by one process; leave --plan out")
    for needed, options in needing.items():
        for name, value in options.items():
            if value is not None and not given[needed]:
                raise ConfigError(f"--{name} has no effect without --{needed}; give that too")


def _where(model: Path, plan: Path | None, address: str | None) -> "Where":
    from pipelines.models.scoring.engines import Where, plan_for

    if plan is None:
        return Where(tell=say)
    return Where(plan_for(plan, model), address or "local", say)


def _options(
    split: str | None,
    rows: int | None,
    batch: int | None,
    window: int | None,
    stride: int | None,
) -> "EvaluateOptions":
    from pipelines.models.evaluate import EvaluateOptions
    from pipelines.models.scoring.windows import Window

    if split not in (None, "held_out", "train"):
        raise ConfigError(f"no split {split!r}; choose held_out or train")
    return EvaluateOptions(
        "train" if split == "train" else "held_out",
        rows,
        BATCH["data"] if batch is None else batch,
        None
        if window is None
        else Window(window, max(window // 2, 1) if stride is None else stride),
    )


def _measure(
    model: Path, data: Path, options: "EvaluateOptions", settings: "list[Ablation]", where: "Where"
) -> dict[str, Any]:
    """Measure the loss on text and show it; return the figures."""
    from pipelines.models.evaluate import evaluate_ablated, evaluate_on
    from pipelines.screen.evaluation_tables import ablation_table, evaluation_tables
    from pipelines.screen.progress import counted

    with counted(console, "evaluating") as progress:
        if where.plan is None:
            asked = [None, *settings]
            whole, *others = evaluate_ablated(model, data, options, asked, progress)
        else:
            whole, others = evaluate_on(model, data, options, where, progress), []
    for table in evaluation_tables(escape(str(model)), whole):
        console.print(table)
    ablations = list(zip(settings, others, strict=True))
    if settings:
        console.print(ablation_table(whole, ablations))
    return whole.table | {
        "ablations": [
            {"setting": each.name, "layer": each.layer, "loss": found.loss}
            for each, found in ablations
        ]
    }


def _score(
    model: Path, tasks: str, bounds: tuple[int | None, int | None, int | None], where: "Where"
) -> dict[str, Any]:
    """Run tasks and show their scores; return them."""
    from pipelines.models.scoring.tasks import TaskOptions, figures, score_tasks
    from pipelines.screen.evaluation_tables import task_table
    from pipelines.screen.progress import counted

    limit, batch, length = bounds
    names = tuple(filter(None, tasks.split(",")))
    options = TaskOptions(names, limit, BATCH["tasks"] if batch is None else batch, length)
    with counted(console, "running tasks") as progress:
        scores = figures(score_tasks(model, options, where, progress))
    console.print(task_table(escape(str(model)), scores))
    return scores
