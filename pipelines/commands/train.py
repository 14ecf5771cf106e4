"""``raymoe train``: a run to its last step."""

from typing import Annotated

import typer

from pipelines.commands.run_arguments import IfSaved, Resume, RunFile, Set, resuming
from pipelines.screen.terminal import caution, console, say

EXAMPLE = "raymoe train run.toml --set train.steps=100 --set cluster.address=auto"


def train(
    run: RunFile,
    set_: Set = None,
    resume: Resume = False,
    resume_if_saved: IfSaved = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            help="Have the run suffer this, once, where its file says elastic.faults = true: "
            "kill:rank=3,step=5,phase=backward (kill, hang or raise; phases start, step, forward, "
            "backward, reduction, update, snapshot, copy, write, resize), node:rank=2,step=4 or "
            "drain:rank=2,step=4,seconds=30. Repeatable.",
        ),
    ] = None,
) -> None:
    """Train a run to its last step, on this machine or on a Ray cluster."""
    how = resuming(resume, resume_if_saved)
    from moe.config.fault import parse_fault
    from moe.config.run import load_run
    from pipelines.screen.progress import training_view
    from pipelines.training.beginning import cautions, how_to_go_on
    from pipelines.training.train import train as start

    faults = [parse_fault(text) for text in fault or ()]
    config = load_run(run, set_ or ())
    for line in cautions(config):
        caution(line)
    try:
        with training_view(console, config.train.steps) as view:
            last = start(config, how, view.start, view.step, view.tell, faults)
    except KeyboardInterrupt:
        say(f"interrupted; {how_to_go_on(config)}")
        raise
    say(f"last checkpoint: {last}")
