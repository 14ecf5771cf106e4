"""What was measured of a model, as tables on the terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from moe.nn.ablation import Ablation
from pipelines.models.evaluate import Evaluation
from pipelines.models.scoring.totals import TextLoss, perplexity


def evaluation_tables(title: str, result: Evaluation) -> list[Table]:
    """Return the loss over everything with a row for each router, and where text comes from
    several domains, a row for each.
    """
    tables = [_routers(title, result)]
    if len(result.domains) > 1:
        tables.append(_domains(result.domains))
    return tables


def ablation_table(whole: Evaluation, settings: Sequence[tuple[Ablation, Evaluation]]) -> Table:
    """Return the loss under each ablation, and how far it is above that of the model as it is."""
    table = Table(title="without a part of the routing")
    table.add_column("setting")
    for heading in ("layer", "loss", "rise"):
        table.add_column(heading, justify="right")
    table.add_row("the model as it is", "", f"{whole.loss:.4f}", "")
    for ablation, result in settings:
        layer = "all" if ablation.layer is None else str(ablation.layer)
        rise = f"{result.loss - whole.loss:+.4f}"
        table.add_row(ablation.name, layer, f"{result.loss:.4f}", rise)
    return table


def task_table(title: str, scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the scores of tasks, each with its standard error where the harness knows one."""
    table = Table(title=title)
    for heading in ("task", "metric"):
        table.add_column(heading)
    for heading in ("score", "standard error"):
        table.add_column(heading, justify="right")
    for task, found in scores.items():
        for name, value in found.items():
            if "_stderr" not in name:
                error = found.get(f"{name}_stderr")
                table.add_row(task, name, f"{value:.4f}", "" if error is None else f"{error:.4f}")
    return table


def _routers(title: str, result: Evaluation) -> Table:
    table = Table(title=title, caption=_summary(result), caption_justify="left")
    for heading in ("layer", "busiest", "idle", "drop rate", "sharpness", "similarity", "load"):
        table.add_column(heading, justify="left" if heading == "load" else "right")
    for number, layer in result.layers.items():
        table.add_row(
            str(number),
            f"{layer.imbalance:.2f}x",
            str(layer.idle),
            f"{layer.drop_rate:.1%}",
            f"{layer.sharpness:.2f}",
            f"{layer.similarity:.4f}",
            " ".join(f"{share:.0%}" for share in layer.load),
        )
    return table


def _domains(domains: Mapping[str, TextLoss]) -> Table:
    table = Table(title="by domain")
    table.add_column("domain")
    for heading in ("tokens", "loss", "perplexity", "bits per byte"):
        table.add_column(heading, justify="right")
    for name, found in domains.items():
        bits = "" if found.bits_per_byte is None else f"{found.bits_per_byte:.4f}"
        table.add_row(name, f"{found.tokens}", f"{found.loss:.4f}", f"{found.perplexity:.2f}", bits)
    return table


def _summary(result: Evaluation) -> str:
    speed = result.tokens / result.seconds
    line = (
        f"loss {result.loss:.4f} nats/token, perplexity {result.perplexity:.2f} "
        f"over {result.tokens} tokens, {speed:.0f} tokens/s"
    )
    if result.bits_per_byte is not None:
        line += f"\n{result.bits_per_byte:.4f} bits/byte over {result.bytes} bytes of text"
    if result.recipe_loss is not None:
        line += (
            f"\nperplexity {perplexity(result.recipe_loss):.2f} as transformers' script weighs "
            "windows"
        )
    return line
