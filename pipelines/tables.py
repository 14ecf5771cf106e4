"""Results as tables on the terminal."""

from collections.abc import Mapping

from rich.table import Table

from moe.surgery.receipt import Receipt
from pipelines.evaluate import Evaluation


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


def receipt_table(receipt: Receipt) -> Table:
    """Return what an upcycling did and how far its logits lie from the dense model's."""
    table = Table(title="receipt", show_header=False)
    distance = receipt.distance
    table.add_row("method", receipt.method)
    for name, value in receipt.options.items():
        if value not in (None, False):
            table.add_row(name.replace("_", " "), _spoken(value))
    table.add_row(
        "largest logit difference",
        f"{distance.max_absolute:.1e} ({distance.relative:.1e} relative)",
    )
    table.add_row("same first choice", f"{distance.same_argmax:.0%} of {distance.tokens} tokens")
    return table


def _spoken(value: object) -> str:
    """Return a value of a receipt; of a table only what is set to something."""
    if not isinstance(value, Mapping):
        return str(value)
    said = {key: found for key, found in value.items() if found not in (None, False, 0, 1, ())}
    return ", ".join(f"{key.replace('_', ' ')} {found}" for key, found in said.items())


def _summary(result: Evaluation) -> str:
    speed = result.tokens / result.seconds
    return (
        f"loss {result.loss:.4f} nats/token, perplexity {result.perplexity:.2f} "
        f"over {result.tokens} tokens, {speed:.0f} tokens/s"
    )
