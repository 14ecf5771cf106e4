"""``raymoe bench serve``: load on a server of the OpenAI API, ours or any other."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pipelines.screen.terminal import console, say

EXAMPLE = (
    "raymoe bench serve --tokenizer models/moe --input-tokens 64 --concurrency 16 --requests 64"
)
REQUESTS = 64
CONCURRENCY = 1


def serve(
    url: Annotated[
        str, typer.Option(help="Address of the server, with or without /v1.")
    ] = "http://127.0.0.1:8000/v1",
    model: Annotated[
        str | None,
        typer.Option(help="Name of the model.", show_default="the first of /v1/models"),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key to send.", envvar="RAYMOE_BENCH_API_KEY")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask /v1/chat/completions, not /v1/completions.")
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File of prompts, taken in turn: .jsonl with prompt or messages (and max_tokens) "
            "in every line, or a text in every line."
        ),
    ] = None,
    input_tokens: Annotated[
        int | None, typer.Option(help="Tokens of each random prompt.", show_default="64")
    ] = None,
    shared_tokens: Annotated[
        int | None, typer.Option(help="Of these, tokens with which all prompts begin.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Model directory whose tokenizer makes random prompts as text, and counts answers "
            "that the server does not count."
        ),
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(help="Without a tokenizer: random prompts of token ids below this."),
    ] = None,
    output_tokens: Annotated[int, typer.Option(help="Longest answer: max_tokens.", min=1)] = 64,
    min_tokens: Annotated[
        int | None, typer.Option(help="Send min_tokens: the shortest answer.", min=0)
    ] = None,
    ignore_eos: Annotated[
        bool,
        typer.Option("--ignore-eos", help="Send ignore_eos: answers do not end by themselves."),
    ] = False,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0)] = 0.0,
    requests: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many to send.", show_default=f"{REQUESTS}, or all that the file has"
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            help="Closed loop: clients that send again once they are answered.",
            show_default=str(CONCURRENCY),
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Open loop: requests a second on average, Poisson arrivals."),
    ] = None,
    leave: Annotated[
        float, typer.Option(help="Share of the clients that go away in mid-stream.")
    ] = 0.0,
    timeout: Annotated[float, typer.Option(help="Longest seconds of a request.", min=1)] = 600.0,
    seed: Annotated[
        int,
        typer.Option(
            help="Of prompts, arrivals and those who leave. The same prompts again may be "
            "found in the server's prefix cache.",
            min=0,
        ),
    ] = 0,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures and every request there.")
    ] = None,
) -> None:
    """Measure a server: time to first token, between tokens and end to end; tokens a second.

    Answers are streams. The exit code is 1 if a request failed.
    """
    import asyncio

    from pipelines.loading.figures import figures
    from pipelines.loading.load import Load
    from pipelines.loading.prompt_source import PromptSource
    from pipelines.loading.report import write_report
    from pipelines.loading.running import run
    from pipelines.loading.target import Target, base_url, first_model
    from pipelines.loading.tokenizer import LoadTokenizer
    from pipelines.planning.output import output
    from pipelines.screen.load_table import fault_lines, load_lines, load_table, load_view

    kept = None if json is None else output("--json", json)
    counting = None if tokenizer is None else LoadTokenizer(tokenizer)
    source = PromptSource(prompts, counting, vocabulary, input_tokens, shared_tokens)
    wanted = requests or (None if prompts is not None else REQUESTS)
    asked = source.prompts(wanted, seed)
    closed = CONCURRENCY if concurrency is None and rate is None else concurrency
    load = Load(wanted or len(asked), closed, rate, leave, seed)
    base = base_url(url)
    name = model or asyncio.run(first_model(base, api_key))
    target = Target(
        base, name, api_key, chat, output_tokens, min_tokens, ignore_eos, temperature, timeout
    )
    for prompt in asked:
        target.body(prompt)
    with load_view(console, load.requests) as told:
        answers = asyncio.run(run(target, load, asked, told))
    found = figures(answers, asked, counting)
    console.print(load_table(load, found))
    for line in load_lines(found):
        say(line)
    for line in fault_lines(found):
        console.print(Text(line, style="red"), soft_wrap=True)
    if kept is not None:
        write_report(kept.path, target, load, found, answers)
        say(kept.told)
    if found.faults:
        raise typer.Exit(1)
