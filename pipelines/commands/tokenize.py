"""``raymoe tokenize``: text, or rows for fine-tuning, to token shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from moe.config.run import DataKind
from moe.errors import ConfigError
from pipelines.screen.terminal import To, say

if TYPE_CHECKING:
    from pipelines.corpus.manifest import TokenManifest

EXAMPLE = "raymoe tokenize text --model models/smollm2 --to tokens --sequence-length 512"

_OF_ROWS = ("shape", "template", "answers", "system", "strict")


def tokenize(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Files or folders of them: of text (text, Markdown, HTML, JSON lines, Parquet), "
            "or of rows for fine-tuning (JSON lines, JSON, Parquet)."
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
    kind: Annotated[
        str, typer.Option(help="What the input is: text, chat, instruction or preference.")
    ] = "text",
    packing: Annotated[
        str | None,
        typer.Option(
            help="How documents lie in sequences: cut (one text after the other), packed (whole "
            "ones, as many as fit, none sees another) or padded (one each).",
            show_default="cut for text, else packed",
        ),
    ] = None,
    truncate: Annotated[
        str | None,
        typer.Option(
            help="Of documents longer than a sequence, packed or padded: right cuts the end off, "
            "left the beginning, drop leaves them out.",
            show_default="right",
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Columns of the rows: messages, conversations, instruction, prompt-completion or "
            "preference.",
            show_default="by the first row of each file",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="Chat template: model (its own), chatml, deepseek, alpaca, plain, or a file.",
            show_default="model",
        ),
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(help="Answers that count in the loss: all or last.", show_default="all"),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="System message of rows that have none.", show_default=False),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse rows that cannot be used, do not count them.")
    ] = False,
) -> None:
    """Turn text, or rows for fine-tuning, into token shards, which training and evaluation read."""
    from pipelines.corpus.manifest import Packing, Truncation
    from pipelines.corpus.tokenize import TokenizeOptions
    from pipelines.corpus.tokenize import tokenize as tokenize_text

    chosen = _one_of("--kind", kind, DataKind)
    packing = packing or ("cut" if chosen == "text" else "packed")
    if truncate is not None and packing == "cut":
        raise ConfigError(
            "--truncate has no effect on documents that are cut into full sequences; remove it, or "
            "choose --packing packed or padded"
        )
    options = TokenizeOptions(
        sequence_length=sequence_length,
        held_out_fraction=held_out,
        seed=seed,
        similar=similar,
        packing=_one_of("--packing", packing, Packing),
        truncation=_one_of("--truncate", truncate or "right", Truncation),
    )
    given = dict(zip(_OF_ROWS, (shape, template, answers, system, strict or None), strict=True))
    given = {name: value for name, value in given.items() if value is not None}
    if chosen == "text":
        if given:
            raise ConfigError(
                f"--{next(iter(given))} has no effect on text; remove it, or give --kind chat, "
                "instruction or preference"
            )
        manifest = tokenize_text(inputs, model, to, options, say)
    else:
        from pipelines.tuning.tokenize import tokenize_rows

        manifest = tokenize_rows(inputs, model, to, _tuning(chosen, given), options, say)
    _tell(manifest)


def _tuning(kind: DataKind, given: dict[str, Any]) -> Any:
    """Return the options of rows that were given."""
    from pipelines.corpus.manifest import Answers
    from pipelines.tuning.reading import TuningOptions
    from pipelines.tuning.shapes import OF_KIND

    if "shape" in given and given["shape"] not in OF_KIND[kind]:
        raise ConfigError(
            f"--shape {given['shape']} is no shape of --kind {kind}; choose one of "
            f"{', '.join(OF_KIND[kind])}"
        )
    if "answers" in given:
        _one_of("--answers", given["answers"], Answers)
    return TuningOptions(kind, **given)


def _one_of(option: str, value: str, choices: Any) -> Any:
    """Return a value of a literal type; ConfigError for another."""
    if value not in get_args(choices):
        raise ConfigError(f"{option} is {value!r}; choose one of {', '.join(get_args(choices))}")
    return value


def _tell(manifest: "TokenManifest") -> None:
    """Print what each split holds."""
    for name, split in (("train", manifest.train), ("held_out", manifest.held_out)):
        line = f"{name}: {split.documents} documents, {split.tokens} tokens, {split.rows} rows"
        if split.counted_tokens is not None:
            places = split.rows * manifest.sequence_length
            line += (
                f"; {split.counted_tokens} tokens count ({split.counted_tokens / split.tokens:.0%})"
                f", {1 - split.tokens / places:.0%} padding"
            )
        say(line)
