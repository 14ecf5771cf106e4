"""``raymoe upcycle``: a dense model to a mixture of experts."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.screen.terminal import Model, To, console, say

EXAMPLE = "raymoe upcycle models/dense --to models/moe --experts 8 --top-k 2 --gate-norm 1"


def upcycle(
    dense: Model,
    to: To,
    method: Annotated[
        str,
        typer.Option(
            help="How experts are made: copy, noise, drop, virtual-group, split or shared."
        ),
    ] = "copy",
    experts: Annotated[
        int, typer.Option(help="Experts of each layer: copies, or parts, of its feed-forward.")
    ] = 8,
    top_k: Annotated[int, typer.Option(help="Experts that each token goes to.")] = 2,
    deviation: Annotated[
        float | None,
        typer.Option(
            help="For noise: its deviation, relative to that of each tensor.", show_default="0.05"
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
            help="For split and shared: group columns by random or by activation.",
            show_default="random",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="For --by activation: directory that `raymoe tokenize` wrote.",
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
        str,
        typer.Option(help="Start of the routers: normal, zero or, for split and shared, centroid."),
    ] = "normal",
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
        str, typer.Option(help="Scores of the experts: softmax or sigmoid.")
    ] = "softmax",
    renormalise: Annotated[
        bool, typer.Option(help="Make the weights of the experts of a token sum to one.")
    ] = True,
    balance_bias: Annotated[
        bool,
        typer.Option(
            "--balance-bias",
            help="Give each expert a bias that only affects which experts are chosen.",
        ),
    ] = False,
    first_dense: Annotated[int, typer.Option(help="Number of first layers that stay dense.")] = 0,
    family: Annotated[
        str | None,
        typer.Option(
            help="Format of the result.",
            show_default="the first of mixtral, skywork_moe, raymoe that has every option",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Turn a dense model into a mixture of experts; the receipt tells how much it changed."""
    from moe.surgery.methods import method_named
    from moe.surgery.options import UpcycleOptions
    from moe.surgery.upcycle import upcycle as run
    from pipelines.models.calibration import calibration_from
    from pipelines.screen.model_tables import receipt_table
    from pipelines.screen.progress import counted

    chosen = {"deviation": deviation, "ratio": ratio, "granularity": granularity, "by": by}
    chosen |= {"shared": shared, "shared_gate": shared_gate}
    options = UpcycleOptions(
        experts=experts,
        top_k=top_k,
        gate_norm=gate_norm,
        router_std=router_std,
        seed=seed,
        family=family,
        method=method_named(method, chosen),
        router=router,  # type: ignore[arg-type]  # checked there
        first_dense=first_dense,
        renormalise=renormalise,
        score=score,  # type: ignore[arg-type]  # checked by the architecture
        balance_bias=balance_bias,
    )
    text = calibration_from(dense, calibration) if calibration else None
    with counted(console, "upcycling", "MB") as progress:
        receipt = run(dense, to, options, progress, text)
    console.print(receipt_table(receipt))
    say(f"wrote {to}")
