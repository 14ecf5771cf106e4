"""What every benchmark shares: its options, its table, its JSON, its verdict."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.material import small_demo

DEMO = Path("demo")
WIDTH = 160
"""Columns of a table that is printed to a file or a pipe."""

NAME_WIDTH = 18
"""Names of rows up to this long stay on one line, however many figures stand beside them."""


def options(description: str, material: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options all benchmarks have, and those of a real model and text."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument(
        "--smallest",
        action="store_true",
        help="run in seconds, on tiny material that is made for it; no bar is judged",
    )
    if not material:
        return parser
    parser.add_argument("--model", type=Path, default=DEMO / "moe")
    parser.add_argument("--data", type=Path, default=DEMO / "tokens")
    return parser


def parse(parser: argparse.ArgumentParser, **smallest: object) -> argparse.Namespace:
    """Parse the command line, and say where the material comes from if it is not there.

    ``smallest`` holds the defaults that options have under ``--smallest``. There, a default path
    below ``demo/`` becomes that of the same material in small, which lives as long as this process.
    """
    arguments = parser.parse_args()
    assert smallest.keys() <= vars(arguments).keys()
    paths = {name: parser.get_default(name) for name in vars(arguments)}
    demo = {
        name: path
        for name, path in paths.items()
        if isinstance(path, Path) and path.is_relative_to(DEMO)
    }
    if arguments.smallest:
        small = {name: small_demo() / path.relative_to(DEMO) for name, path in demo.items()}
        parser.set_defaults(**smallest, **small)
        return parser.parse_args()
    for name in demo:
        path = getattr(arguments, name)
        if not path.exists():
            parser.error(f"{path} is missing; `make demo` makes it, --smallest does without")
    return arguments


def finish(
    arguments: argparse.Namespace,
    title: str,
    rows: Sequence[dict[str, Any]],
    missed: Sequence[str],
    digits: int = 4,
) -> None:
    """Print the rows to so many digits, keep them, and exit 1 under --check if a bar was missed."""
    if arguments.smallest:
        title, missed = f"{title} (smallest form: bars are not judged)", ()
    table = Table(title=title)
    longest = max(len(str(row.get("what", ""))) for row in rows)
    for heading in rows[0]:
        named = heading == "what"
        whole = named and longest <= NAME_WIDTH
        table.add_column(heading, justify="left" if named else "right", no_wrap=whole)
    for row in rows:
        cells = (f"{v:.{digits}g}" if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(*cells)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table)
    for miss in missed:
        console.print(f"[red]missed:[/] {miss}")
    if arguments.json:
        kept = {"rows": rows, "missed": [*missed]}
        arguments.json.write_text(json.dumps(kept, indent=2) + "\n")
    if arguments.check and missed:
        sys.exit(1)
