"""The verbs that make models: from a preset, and from a dense one."""

from pathlib import Path
from typing import Annotated

import typer

from moe.errors import ConfigError
from pipelines.screen.terminal import Model, To, console, say


def presets() -> None:
    """List the architectures of the papers that `raymoe init` can make."""
    from pipelines.screen.preset_table import preset_table

    console.print(preset_table())


def init(
    preset: Annotated[str, typer.Argument(help="A name that `raymoe presets` lists.")],
    to: To,
    seed: Annotated[int, typer.Option(help="Seeds the weights.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a size: key=value, again for more.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Make a model with random weights from a preset, to train from scratch."""
    import torch

    from moe.config.model_overrides import override
    from moe.config.presets import preset as find
    from moe.surgery.initialise import initialise
    from pipelines.screen.progress import counted

    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in types:
        raise ConfigError(f"no type {dtype!r}; choose {' or '.join(types)}")
    config = override(find(preset).config, set_ or ())
    with counted(console, "initialising", "MB") as progress:
        initialise(config, to, seed, types[dtype], progress, preset)
    say(f"wrote {to}")


def upcycle(
    dense: Model,
    to: To,
    method: Annotated[
        str, typer.Option(help="copy, noise, drop, virtual-group, split or shared.")
    ] = "copy",
    experts: Annotated[
        int, typer.Option(help="Copies, or routed parts, of each feed-forward.")
    ] = 8,
    top_k: Annotated[int, typer.Option(help="How many of them a token goes to.")] = 2,
    deviation: Annotated[
        float | None, typer.Option(help="noise: relative to each tensor's own; 0.05.")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="drop: share of columns drawn anew; 0.5.")
    ] = None,
    granularity: Annotated[
        int | None, typer.Option(help="virtual-group: shards of each copy; 2.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="split, shared: columns by random or activation.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Token shards for activation; default random tokens.")
    ] = None,
    shared: Annotated[
        int | None, typer.Option(help="shared: parts that all tokens use; 1.")
    ] = None,
    shared_gate: Annotated[
        bool | None, typer.Option("--shared-gate", help="shared: weigh them by a sigmoid.")
    ] = None,
    router: Annotated[
        str, typer.Option(help="normal, zero, or centroid (split, shared).")
    ] = "normal",
    router_std: Annotated[
        float | None, typer.Option(help="Deviation of the new routers; 0.02.")
    ] = None,
    gate_norm: Annotated[
        float | None, typer.Option(help="Normalise gate logits to this deviation (Skywork: 1).")
    ] = None,
    score: Annotated[str, typer.Option(help="softmax or sigmoid.")] = "softmax",
    renormalise: Annotated[bool, typer.Option(help="Weights of a token sum to one.")] = True,
    balance_bias: Annotated[
        bool, typer.Option("--balance-bias", help="A bias per expert, for the choice alone.")
    ] = False,
    first_dense: Annotated[int, typer.Option(help="Layers that stay dense.")] = 0,
    family: Annotated[
        str | None, typer.Option(help="Format; default mixtral, skywork_moe or raymoe.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds all that is drawn.")] = 0,
) -> None:
    """Turn a dense model into a mixture of experts; the receipt says how far it moved."""
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
