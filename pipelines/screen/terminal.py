"""What every verb of the command line shares: where it prints, and arguments that many take."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

console = Console()

To = Annotated[Path, typer.Option("--to", help="Where to write; must not exist.")]
Model = Annotated[Path, typer.Argument(help="Model directory in Hugging Face form.")]


def say(line: str) -> None:
    """Print a line as it is."""
    console.print(line, highlight=False, markup=False)


def caution(line: str) -> None:
    """Print what a person should know that is no error."""
    console.print(Text.assemble(("caution: ", "yellow"), line))
