"""``raymoe profile``: measure this machine per kind of layer, for the planner."""

from pathlib import Path
from typing import Annotated

import typer

from moe.errors import ConfigError
from pipelines.commands.planning_arguments import (
    Architecture,
    Length,
    architecture,
    chosen,
    length_for,
)
from pipelines.planning.output import output
from pipelines.screen.terminal import console, say
from pipelines.screen.words import count

EXAMPLE = "raymoe profile smollm2 --to profile.toml"


def profile(
    model: Architecture,
    to: Annotated[
        Path,
        typer.Option("--to", help="Profile file to write (TOML); replaced where it exists."),
    ],
    ranks: Annotated[
        int,
        typer.Option(help="Ranks that this machine will run; all are measured at once."),
    ] = 2,
    threads: Annotated[int, typer.Option(help="CPU cores of each rank.")] = 1,
    sequence_length: Length = None,
    micro_batch: Annotated[
        str, typer.Option(help="Sizes of micro-batches to measure, in sequences.")
    ] = "1,2,4",
    seconds: Annotated[
        float, typer.Option(help="Seconds to measure each kind of layer at each size.")
    ] = 3.0,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Precisions of products to measure, one after the other: float32, bf16 or both "
            "with a comma between.",
            show_default="both; float32 on a processor that cannot multiply bf16",
        ),
    ] = None,
) -> None:
    """Measure how fast this machine computes each kind of layer, for the planner.

    Runs one layer of each kind with random weights, and the link between two ranks; once in each
    precision, because a profile of one tells a plan in the other nothing.
    """
    from rich.text import Text

    from actors.device import multiplies_bf16
    from actors.profiling.machine import measure
    from actors.profiling.measure import Measuring
    from actors.profiling.messages import link_of
    from actors.profiling.profile import caution_of, profile_of
    from moe.planning.devices.inventory_file import save_profile
    from pipelines.screen.profile_table import profile_table
    from pipelines.screen.progress import counted

    file, sizes = output("--to", to), sizes_of(micro_batch)
    config = architecture(model)
    length = length_for(config, sequence_length)
    profiles, link = [], None
    for each in precisions_of(precision, multiplies_bf16()):
        asked = Measuring(config, length, sizes, ranks, threads, seconds, each)
        with counted(console, f"measuring in {each}", "parts") as progress:
            found = measure(asked, progress)
        measured = profile_of(asked, found, source_of(model, ranks, threads, found[0].device))
        wires = [each.wire for each in found if each.wire is not None]
        link = link or (link_of(wires) if wires else None)
        profiles.append(measured)
        console.print(profile_table(measured, link, found))
        caution = caution_of(asked, found)
        if caution is not None:
            console.print(Text.assemble(("caution: ", "yellow"), caution))
    save_profile(profiles, [link] if link else [], to)
    say(file.told)


def sizes_of(text: str) -> tuple[int, ...]:
    """Return the sizes in a list like 1,2,4."""
    try:
        return tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError:
        raise ConfigError(
            f"--micro-batch is {text!r}; give whole numbers with commas between, as 1,2,4"
        ) from None


def precisions_of(text: str | None, multiplies_bf16: bool) -> tuple[str, ...]:
    """Return the precisions in a list like float32,bf16, each once; without one, what is usual."""
    from moe.planning.devices.pace import PRECISIONS

    if text is None:
        return PRECISIONS if multiplies_bf16 else PRECISIONS[:1]
    words = [word.strip() for word in text.split(",")]
    return tuple(chosen("--precision", word, PRECISIONS) for word in dict.fromkeys(words))


def source_of(model: str, ranks: int, threads: int, device: str) -> str:
    """Return where a profile is from: what was measured, how, when, and on what."""
    from datetime import date

    from moe.planning.devices.processor import processor_name

    name = processor_name() if device == "cpu" else device
    how = f"{count(ranks, 'rank')} of {count(threads, 'thread')}"
    label = Path(model).name if Path(model).is_dir() else model
    return f"raymoe profile, {label}, {how}, {date.today()}, {name}"
