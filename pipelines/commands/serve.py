"""``raymoe serve``: a model over the OpenAI API."""

from pathlib import Path
from typing import Annotated

import typer

from moe.config.answering import CACHE_TOKENS, RUNNING, CacheKind, WeightKind
from moe.errors import ConfigError
from pipelines.screen.terminal import Model, caution, say

EXAMPLE = "raymoe serve models/moe --port 8000"


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
    weights: Annotated[
        WeightKind,
        typer.Option(help="Weights as they are, or packed in 16 or 8 bits: less memory, faster."),
    ] = "fp32",
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
        float, typer.Option(help="Memory of each rank for adapters, in GB.")
    ] = 1.0,
    load_adapters: Annotated[
        bool,
        typer.Option(
            "--load-adapters", help="Let requests load and drop adapters; needs API keys."
        ),
    ] = False,
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
        str,
        typer.Option(help="Ray cluster: local starts one here; auto or HOST:PORT joins one."),
    ] = "local",
) -> None:
    """Serve a model over the OpenAI API until you press Ctrl-C.

    It answers /v1/completions, /v1/chat/completions, /v1/responses, /v1/models, /tokenize,
    /detokenize, /metrics and /health. Any client of the OpenAI API works with it: point it at http://127.0.0.1:8000/v1.
    It speaks plain HTTP; on a network, put a proxy with TLS in front of it.
    """
    from pipelines.corpus.inputs import notes_on
    from pipelines.serving.app import run_server
    from pipelines.serving.arguments import parse_arguments

    arguments = parse_arguments(
        {
            "model": model.absolute(),
            "plan": plan and plan.absolute(),
            "adapters": _adapters(adapter or []),
            "adapter_gb": adapter_gb,
            "load_adapters": load_adapters,
            "name": name,
            "weights": weights,
            "cache": cache,
            "cache_tokens": cache_tokens,
            "running": running,
            "api_keys": api_key or (),
            "allowed_origins": allow_origin or ("*",),
        }
    )
    for line in notes_on(model):
        caution(line)
    run_server(arguments, host, port, address, say)


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
