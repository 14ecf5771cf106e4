"""Arguments that the commands of runs share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from moe.errors import ConfigError

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
IfSaved = Annotated[
    bool,
    typer.Option(
        "--resume-if-saved",
        help="Resume, but begin if there is nothing to resume: the same command again.",
    ),
]


def resuming(resume: bool, if_saved: bool) -> Literal["never", "always", "if-saved"]:
    """Return how a run resumes, from the options that say so."""
    if resume and if_saved:
        raise ConfigError(
            "--resume and --resume-if-saved contradict each other: without a checkpoint the first "
            "refuses the run and the second begins it; give one of them"
        )
    if resume:
        return "always"
    return "if-saved" if if_saved else "never"
