"""What every verb of the command line shares: where it prints, and arguments that many take."""

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
    """Print a line as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def caution(line: str) -> None:
    """Print what a person should know that is no error."""
    console.print(Text.assemble(("caution: ", "yellow"), line))
