"""Shared by all commands: the console, and arguments that many commands take."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

console = Console()

To = Annotated[
    Path, typer.Option("--to", help="Directory to write. It must not exist or must be empty.")
]
Model = Annotated[Path, typer.Argument(help="Model directory in Hugging Face format.")]


def say(line: str) -> None:
    """Print a line unchanged."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def caution(line: str) -> None:
    """Print a warning."""
    console.print(Text.assemble(("caution: ", "yellow"), line))
