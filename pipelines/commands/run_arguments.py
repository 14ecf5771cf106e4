"""Arguments that the commands of runs share."""

from pathlib import Path
from typing import Annotated

import typer

RunFile = Annotated[Path, typer.Argument(metavar="RUN", help="Run file in TOML.")]
RunName = Annotated[str, typer.Argument(help="Name of the run, as its run file gives it.")]
Address = Annotated[
    str,
    typer.Option(
        help="Ray cluster as HOST:PORT; auto takes RAY_ADDRESS or the cluster on this machine."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace one value of the run file: section.key=value. Repeatable."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Take over the actors of the run, if its command line was killed and they live; else "
        "continue from the newest checkpoint.",
    ),
]
