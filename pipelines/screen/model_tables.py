"""Results as tables on the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from rich.table import Table
from rich.text import Text

from moe.config.model import MoeConfig
from moe.nn.ablation import Ablation
from moe.surgery.methods import METHODS
from moe.surgery.options import UpcycleOptions
from moe.surgery.receipt import Receipt
from pipelines.models.evaluate import Evaluation


def evaluation_table(title: str, result: Evaluation) -> Table:
    """Return held-out loss and perplexity, and a row for each router."""
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


def receipt_table(receipt: Receipt) -> Table:
    """Return a table of an upcycling and the distance of its logits from the dense model's
    logits.
    """
    table = Table(title="receipt", show_header=False)
    distance = receipt.distance
    table.add_row("method", receipt.method)
    for name, value in chosen(receipt).items():
        table.add_row(name.replace("_", " "), value)
    table.add_row(
        "largest logit difference",
        f"{distance.max_absolute:.1e} ({distance.relative:.1e} relative)",
    )
    table.add_row("same first choice", f"{distance.same_argmax:.0%} of {distance.tokens} tokens")
    for note in receipt.notes:
        table.add_row("caution", Text(note))
    return table


def chosen(receipt: Receipt) -> dict[str, str]:
    """Return the seed, the options of the method, and the other options that differ from their
    defaults.
    """
    own = {field.name for field in fields(METHODS[receipt.method])}
    said = {}
    for name, value in receipt.options.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            said[name] = _spoken(value, MoeConfig if name == "architecture" else None)
        elif name == "seed" or name in own or _differs(UpcycleOptions, name, value):
            said[name] = str(value)
    return said


def _spoken(values: Mapping[str, object], kind: type | None) -> str:
    """Return a table of a receipt as one line; for a known kind, only values that are not
    defaults.
    """
    said = {
        key.replace("_", " "): value
        for key, value in values.items()
        if value is not None and (kind is None or _differs(kind, key, value))
    }
    return ", ".join(f"{key} {value}" for key, value in said.items())


def _differs(kind: Any, name: str, value: object) -> bool:
    """Return whether a value differs from the default of a dataclass; 1, 1.0 and True differ."""
    default = {field.name: field.default for field in fields(kind)}.get(name, MISSING)
    return type(value) is not type(default) or value != default


def _summary(result: Evaluation) -> str:
    speed = result.tokens / result.seconds
    return (
        f"loss {result.loss:.4f} nats/token, perplexity {result.perplexity:.2f} "
        f"over {result.tokens} tokens, {speed:.0f} tokens/s"
    )
