"""``raymoe study``: what the papers claim, tried on small models on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.screen.terminal import console, say

EXAMPLE = "raymoe study gates --to studies"


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="gates, coefficients, scratch, architectures, granularity, redundancy, methods, "
            "stages or published."
        ),
    ],
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            help="Directory of studies. Runs that another call has finished there are not run "
            "again.",
        ),
    ],
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of each run.", min=2048, show_default="by study"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Runs of each kind, with other initial values and another order of the text. A "
            "difference is called seen only with 2 or more.",
            min=1,
            show_default="by study",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="Text files, or a directory of them, to train on.",
            show_default="Python's standard library",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of the process.", min=1)] = 2,
) -> None:
    """Try a claim of the papers by training small models, and say whether it holds.

    Each study takes less than an hour on two cores. It prints the claims with the paper's figure,
    ours and a verdict, and keeps all figures in --to, as JSON and as a page with curves.
    """
    from moe.checkpoint.writer import write_json
    from pipelines.screen.study_page import write_page
    from pipelines.screen.study_table import claims_table, figures_table
    from pipelines.screen.study_view import arms_view
    from pipelines.study.catalogue import asked_of, conduct, study_named
    from pipelines.study.lab import open_lab

    wanted = study_named(name)
    asked = asked_of(wanted, tokens, seeds)
    with arms_view(console) as told, open_lab(to, text, threads, told) as lab:
        found = conduct(wanted, lab, asked)
    console.print(claims_table(found))
    for each in found.tables:
        console.print(figures_table(each))
    for note in found.notes:
        say(note)
    kept, page = to / f"{name}.json", to / f"{name}.html"
    write_json(kept, {"asked": asdict(asked), **asdict(found)})
    write_page(page, found)
    say(f"wrote {kept} and {page}")
