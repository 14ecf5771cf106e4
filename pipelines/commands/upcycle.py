"""``raymoe upcycle``: dense models, or a mixture of experts, to one with experts, or with more."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.screen.terminal import To, console, say

_ALWAYS = frozenset({"models", "to", "method"})
EXAMPLE = "raymoe upcycle models/dense --to models/moe --experts 8 --top-k 2 --gate-norm 1"


def upcycle(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Dense model in Hugging Face format; several for mix; a mixture of experts, or a "
            "step-... directory of a run, for expand."
        ),
    ],
    to: To,
    method: Annotated[
        str,
        typer.Option(
            help="How experts are made: copy, noise, drop, virtual-group, split or shared; expand "
            "copies those of a mixture of experts, mix takes one of each dense model."
        ),
    ] = "copy",
    experts: Annotated[
        int | None,
        typer.Option(
            help="Experts of each layer: copies, or parts, of its feed-forward; for expand, those "
            "afterwards; for mix, one for each model.",
            show_default="8",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Experts that each token goes to.", show_default="2; 1 with --segment-tokens"
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="For expand: keep the top-k, or the function, with a larger top-k.",
            show_default="top-k",
        ),
    ] = None,
    apart: Annotated[
        bool | None,
        typer.Option(
            "--apart",
            help="For expand: copies of an expert take different tokens, which nearly keeps the "
            "function at the same top-k.",
        ),
    ] = None,
    with_optimizer: Annotated[
        bool | None,
        typer.Option(
            "--with-optimizer",
            help="For expand of a step-... directory: carry over AdamW's moments; a run resumes "
            "what is written.",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="For mix: model of attention, norms and embeddings.",
            show_default="the first model",
        ),
    ] = None,
    average: Annotated[
        bool | None,
        typer.Option("--average", help="For mix: attention, norms and embeddings are the mean."),
    ] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            help="For mix, once for each model: file with a prompt on each line, from which its "
            "router row is made."
        ),
    ] = None,
    deviation: Annotated[
        float | None,
        typer.Option(
            help="For noise and expand: of the noise, relative to that of each tensor.",
            show_default="0.05",
        ),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(help="For drop: fraction of columns drawn anew.", show_default="0.5"),
    ] = None,
    granularity: Annotated[
        int | None,
        typer.Option(help="For virtual-group: shards of each copy.", show_default="2"),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="For split and shared: group columns by random or by activation. For expand: copy "
            "experts alike, by load or by gradient.",
            show_default="random; alike",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="For --by activation and for expand, which also measures held-out loss: directory "
            "that `raymoe tokenize` wrote.",
            show_default="random tokens",
        ),
    ] = None,
    shared: Annotated[
        int | None,
        typer.Option(help="For shared: parts that every token uses.", show_default="1"),
    ] = None,
    shared_gate: Annotated[
        bool | None,
        typer.Option("--shared-gate", help="For shared: weigh these parts by a sigmoid gate."),
    ] = None,
    router: Annotated[
        str | None,
        typer.Option(
            help="Start of the routers: normal, zero or, for split and shared, centroid.",
            show_default="normal",
        ),
    ] = None,
    router_std: Annotated[
        float | None,
        typer.Option(help="For normal: deviation of the routers.", show_default="0.02"),
    ] = None,
    gate_norm: Annotated[
        float | None,
        typer.Option(
            help="Normalise gate logits to this deviation; Skywork-MoE uses 1.", show_default="off"
        ),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(help="Scores of the experts: softmax or sigmoid.", show_default="softmax"),
    ] = None,
    renormalise: Annotated[
        bool | None,
        typer.Option(
            "--renormalise/--no-renormalise",
            help="Make the weights of the experts of a token sum to one.",
            show_default="renormalise",
        ),
    ] = None,
    balance_bias: Annotated[
        bool | None,
        typer.Option(
            "--balance-bias",
            help="Give each expert a bias that only affects which experts are chosen.",
        ),
    ] = None,
    segment_tokens: Annotated[
        int | None,
        typer.Option(
            help="Route segments of so many tokens in place of tokens, and merge the experts for "
            "each (Lory, which uses 256).",
            show_default="off",
        ),
    ] = None,
    first_segment: Annotated[
        str | None,
        typer.Option(
            help="For --segment-tokens: the first segment weighs all experts even, or is routed by "
            "its own tokens, as in the paper; a server answers with even alone.",
            show_default="even",
        ),
    ] = None,
    first_dense: Annotated[
        int | None,
        typer.Option(help="Number of first layers that stay dense.", show_default="0"),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="Format of the result.",
            show_default="the first of mixtral, skywork_moe, raymoe that has every option",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random.", show_default="0")
    ] = None,
) -> None:
    """Make a mixture of experts, or a larger one; the receipt tells how much the model changed."""
    asked = {name: value for name, value in locals().items() if value is not None}
    from pipelines.models.upcycling import run_upcycling
    from pipelines.screen.growth_tables import upcycling_table
    from pipelines.screen.progress import counted

    given = {name: value for name, value in asked.items() if name not in _ALWAYS}
    with counted(console, "upcycling", "MB") as progress:
        receipt = run_upcycling(models, to, method, given, progress)
    console.print(upcycling_table(receipt))
    say(f"wrote {to}")
