"""``raymoe serve``: a model over the OpenAI API."""

from pathlib import Path
from typing import Annotated

import typer

from moe.config.answering import (
    CACHE_TOKENS,
    RUNNING,
    TIME_SHARE,
    CacheKind,
    OnNewWeights,
    Routing,
    WeightKind,
)
from moe.errors import ConfigError
from pipelines.screen.terminal import caution, say

EXAMPLE = "raymoe serve models/moe --port 8000"


def serve(
    model: Annotated[
        Path | None, typer.Argument(help="Model directory in Hugging Face format.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="Name of a training run, in place of MODEL: its ranks answer between two steps, "
            "with the weights of now.",
            show_default=False,
        ),
    ] = None,
    time_share: Annotated[
        float | None,
        typer.Option(
            help="With --run: the most of the run's time that goes into answering, of 1.",
            show_default=str(TIME_SHARE),
        ),
    ] = None,
    on_new_weights: Annotated[
        OnNewWeights | None,
        typer.Option(
            help="With --run: whether requests under way keep their keys and values when the run "
            "has done a step, or have them computed again.",
            show_default="continue",
        ),
    ] = None,
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
            help="Name by which requests ask for the model.",
            show_default="that of the directory, or of the run",
        ),
    ] = None,
    weights: Annotated[
        WeightKind | None,
        typer.Option(
            help="Weights as they are, or packed in 16 or 8 bits: less memory, faster.",
            show_default="fp32",
        ),
    ] = None,
    cache: Annotated[CacheKind, typer.Option(help="Numbers of keys and values.")] = "fp32",
    cache_tokens: Annotated[
        int, typer.Option(help="Tokens of all requests together whose keys and values are kept.")
    ] = CACHE_TOKENS,
    running: Annotated[
        int, typer.Option(help="Requests that are answered together; others wait.")
    ] = RUNNING,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="LoRA adapter to answer with, as NAME=DIR, in peft's format; may be given several "
            "times. Requests name it as their model.",
            show_default="none",
        ),
    ] = None,
    adapter_gb: Annotated[
        float | None,
        typer.Option(help="Memory of each rank for adapters, in GB.", show_default="1.0"),
    ] = None,
    load_adapters: Annotated[
        bool,
        typer.Option(
            "--load-adapters", help="Let requests load and drop adapters; needs API keys."
        ),
    ] = False,
    rebalance_seconds: Annotated[
        float | None,
        typer.Option(
            help="Every so many seconds, let experts change their ranks where the load of requests "
            "makes a rank of their gang slower than the others.",
            show_default="never",
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            help="Replicas that answer together, each with ranks of its own; 0 with "
            "--max-replicas: none while nobody asks.",
            show_default="1",
        ),
    ] = None,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            help="Add replicas where tokens wait, up to so many.",
            show_default="as many as --replicas, always",
        ),
    ] = None,
    routing: Annotated[
        Routing | None,
        typer.Option(
            help="Which replica gets a request: the one that has computed a prompt that begins "
            "alike, or the one with less to do.",
            show_default="prefix",
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Key that requests must have; may be given several times. Other users of the "
            "machine see a command line: prefer the variable RAYMOE_API_KEYS.",
            show_default="no key is asked for",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Web page, as https://chat.example, whose scripts may call the server; may be "
            "given several times.",
            show_default="any page",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster: local starts one here; auto or HOST:PORT joins one.",
            show_default="local; with --run, auto",
        ),
    ] = None,
) -> None:
    """Serve a model, or a training run as it learns, over the OpenAI API until you press Ctrl-C.

    It answers /v1/completions, /v1/chat/completions, /v1/responses, /v1/models, /tokenize,
    /detokenize, /metrics and /health. Any client of the OpenAI API works with it: point it at http://127.0.0.1:8000/v1.
    It speaks plain HTTP; on a network, put a proxy with TLS in front of it.
    """
    from pipelines.corpus.inputs import notes_on
    from pipelines.serving.arguments import parse_arguments
    from pipelines.serving.running import run_server

    given = {
        "model": model and model.absolute(),
        "run": run,
        "time_share": time_share,
        "on_new_weights": on_new_weights,
        "plan": plan and plan.absolute(),
        "adapters": _adapters(adapter or []) or None,
        "adapter_gb": adapter_gb,
        "load_adapters": load_adapters or None,
        "rebalance_seconds": rebalance_seconds,
        "name": name,
        "weights": weights,
        "cache": cache,
        "cache_tokens": cache_tokens,
        "running": running,
        "replicas": replicas,
        "max_replicas": max_replicas,
        "routing": routing,
        "api_keys": api_key or (),
        "allowed_origins": allow_origin or ("*",),
    }
    arguments = parse_arguments({key: value for key, value in given.items() if value is not None})
    for line in notes_on(model) if model else ():
        caution(line)
    run_server(arguments, host, port, address or ("auto" if run else "local"), say)


def _adapters(given: list[str]) -> dict[str, Path]:
    """Return the directories of adapters by name."""
    found: dict[str, Path] = {}
    for each in given:
        name, said, directory = each.partition("=")
        if not (name and said and directory):
            raise ConfigError(f"--adapter is {each!r}; give a name and a directory, NAME=DIR")
        if name in found:
            raise ConfigError(f"two adapters have the name {name!r}; choose another for one")
        found[name] = Path(directory).absolute()
    return found
