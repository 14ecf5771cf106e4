"""``raymoe tokenize``: text to token shards."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.screen.terminal import To, say

EXAMPLE = "raymoe tokenize text --model models/smollm2 --to tokens --sequence-length 512"


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
    similar: Annotated[
        bool,
        typer.Option(
            "--similar",
            help="Put training documents beside similar ones, by the hidden states of the model: "
            "for experts that are merged for segments (--segment-tokens of upcycle).",
        ),
    ] = False,
) -> None:
    """Turn text into token shards, which training and evaluation read."""
    from pipelines.corpus.tokenize import TokenizeOptions
    from pipelines.corpus.tokenize import tokenize as run

    options = TokenizeOptions(
        sequence_length=sequence_length,
        held_out_fraction=held_out,
        seed=seed,
        similar=similar,
    )
    manifest = run(inputs, model, to, options, say)
    for name in ("train", "held_out"):
        split = manifest.train if name == "train" else manifest.held_out
        say(f"{name}: {split.documents} documents, {split.tokens} tokens, {split.rows} rows")
