"""A compression as a table: what was done, what it saves, what it costs."""

from rich.table import Table

from moe.surgery.shrink.compress import Compressed
from pipelines.screen.words import gigabytes


def compress_table(done: Compressed) -> Table:
    """Return a table of a compression."""
    table = Table(title="receipt", show_header=False)
    if done.options.method is not None:
        table.add_row("method", done.options.method.name)
        table.add_row("experts", str(done.options.experts))
    for name, value in done.options.record().items():
        table.add_row(name.replace("_", " "), str(value))
    if done.options.form is not None:
        table.add_row("form", done.options.form)
    before, after = done.bytes
    table.add_row(
        "weights", f"{gigabytes(before)} to {gigabytes(after)} GB, {after / before:.0%} of it"
    )
    if done.losses is not None:
        old, new = done.losses
        table.add_row("held-out loss", f"{old:.4f} to {new:.4f} nats/token")
    distance = done.distance
    table.add_row(
        "largest logit difference",
        f"{distance.max_absolute:.1e} ({distance.relative:.1e} relative)",
    )
    table.add_row("same first choice", f"{distance.same_argmax:.0%} of {distance.tokens} tokens")
    return table
