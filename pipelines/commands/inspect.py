"""``raymoe inspect``: what the experts of a model are like, and what they do on text."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from moe.errors import ConfigError
from pipelines.screen.terminal import Model, caution, console, say

EXAMPLE = "raymoe inspect models/moe --data tokens --html experts.html"
ROWS = 16


def inspect(
    model: Model,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Directory that `raymoe tokenize` wrote; its held-out text shows load, sharpness "
            "and how alike outputs are.",
            show_default="weights only",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            help="With --data: sequences, spread evenly over the held-out split.",
            show_default=str(ROWS),
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures there.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures there.")] = None,
) -> None:
    """Show how alike the experts of each layer are, and which of them the text uses."""
    from moe.checkpoint.reader import Checkpoint
    from moe.checkpoint.writer import write_json
    from pipelines.models.inspect import inspect as run
    from pipelines.models.text import text_from
    from pipelines.planning.output import output
    from pipelines.screen.look_page import write_page
    from pipelines.screen.look_table import look_table
    from pipelines.screen.progress import counted

    if data is None and rows is not None:
        raise ConfigError(f"--rows {rows} has no effect without --data; give that too")
    kept = None if json is None else output("--json", json)
    page = None if html is None else output("--html", html)
    checkpoint = Checkpoint.open(model)
    for line in checkpoint.notes:
        caution(line)
    count = ROWS if rows is None else rows
    text = None if data is None else text_from(model, data, "held_out", count)
    with counted(console, "inspecting") as progress:
        found = run(checkpoint, text, progress)
    console.print(look_table(escape(str(model)), found))
    if kept is not None:
        write_json(kept.path, found.table)
        say(kept.told)
    if page is not None:
        write_page(page.path, found)
        say(page.told)
