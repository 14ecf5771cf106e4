"""What every benchmark shares: its options, its table, its JSON, its verdict."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def options(description: str, material: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options all benchmarks have, and those of a real model and text."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    if not material:
        return parser
    parser.add_argument("--model", type=Path, default=Path("demo/moe"))
    parser.add_argument("--data", type=Path, default=Path("demo/tokens"))
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse, and say where the material comes from if it is not there."""
    arguments = parser.parse_args()
    for path in (arguments.model, arguments.data):
        if not path.exists():
            parser.error(f"{path} is missing; `make demo` makes it")
    return arguments


def finish(
    arguments: argparse.Namespace, title: str, rows: Sequence[dict[str, Any]], missed: Sequence[str]
) -> None:
    """Print the rows, keep them, and exit 1 under --check if any bar was missed."""
    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    console = Console()
    console.print(table)
    for miss in missed:
        console.print(f"[red]missed:[/] {miss}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "missed": missed}, indent=2) + "\n")
    if arguments.check and missed:
        sys.exit(1)
