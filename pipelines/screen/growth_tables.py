"""Receipts of expansions and mixtures as tables on the terminal."""

from collections.abc import Iterable, Mapping

from rich.table import Table
from rich.text import Text

from moe.surgery.distance import LogitDistance
from moe.surgery.growing.expand import GrowthReceipt
from moe.surgery.mixing.mix import MixReceipt
from moe.surgery.receipt import Receipt
from pipelines.screen.model_tables import receipt_table


def upcycling_table(receipt: Receipt | GrowthReceipt | MixReceipt) -> Table:
    """Return the table of any method of upcycling."""
    if isinstance(receipt, GrowthReceipt):
        return growth_table(receipt)
    return mix_table(receipt) if isinstance(receipt, MixReceipt) else receipt_table(receipt)


def growth_table(receipt: GrowthReceipt) -> Table:
    """Return what was copied, and how far the function moved."""
    table = _begun(receipt.method, receipt.options)
    for layer, parents in receipt.parents.items():
        copied = parents[len(set(parents)) :]
        table.add_row(f"copied in layer {layer}", ", ".join(map(str, copied)))
    _add_distance(table, "logits", receipt.distance)
    text = receipt.held_out
    if text is not None:
        losses = f"{text.loss_before:.4f} to {text.loss_after:.4f} nats over {text.tokens} tokens"
        table.add_row("held-out loss", losses)
        _add_distance(table, "held-out logits", text.distance)
    return _ended(table, receipt.notes)


def mix_table(receipt: MixReceipt) -> Table:
    """Return what was mixed, and how far the mixture is from each model."""
    table = _begun(receipt.method, receipt.options)
    for number, source in enumerate(receipt.sources):
        if source.distance is not None:
            _add_distance(table, f"expert {number}, {source.source}", source.distance)
    return _ended(table, receipt.notes)


def _begun(method: str, options: Mapping[str, object]) -> Table:
    table = Table(title="receipt", show_header=False)
    table.add_row("method", method)
    for name, value in options.items():
        if value not in (None, False, [], ()) and not isinstance(value, Mapping):
            table.add_row(name.replace("_", " "), str(value))
    return table


def _add_distance(table: Table, what: str, distance: LogitDistance) -> None:
    table.add_row(
        what,
        f"{distance.max_absolute:.1e} apart at most ({distance.relative:.1e} relative), same "
        f"first choice {distance.same_argmax:.0%} of {distance.tokens} tokens",
    )


def _ended(table: Table, notes: Iterable[str]) -> Table:
    for note in notes:
        table.add_row("note", Text(note))
    return table
