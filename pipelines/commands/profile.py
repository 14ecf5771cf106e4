"""``raymoe profile``: measure this machine per kind of layer, for the planner."""

from pathlib import Path
from typing import Annotated

import typer

from moe.errors import ConfigError
from pipelines.planning.arguments import Architecture, Length, architecture
from pipelines.screen.terminal import console, say

_CPU_FACTS = Path("/proc/cpuinfo")


def profile(
    model: Architecture,
    to: Annotated[Path, typer.Option("--to", help="Where to write the profile, TOML.")],
    ranks: Annotated[int, typer.Option(help="Actors that the machine is to hold.")] = 2,
    threads: Annotated[int, typer.Option(help="Cores of each.")] = 1,
    sequence_length: Length = 512,
    micro_batch: Annotated[str, typer.Option(help="Sequences of a micro-batch: sizes.")] = "1,2,4",
    seconds: Annotated[float, typer.Option(help="How long to run each part at each size.")] = 3.0,
) -> None:
    """Measure one layer of each kind on this machine, and its link; weights are random."""
    from rich.text import Text

    from actors.profiling.crew import measure
    from actors.profiling.measure import Measuring
    from actors.profiling.messages import link_of
    from actors.profiling.profile import caution_of, profile_of
    from moe.planning.devices.inventory_file import save_profile
    from pipelines.screen.profile_table import profile_table
    from pipelines.screen.progress import counted

    config, sizes = architecture(model), sizes_of(micro_batch)
    _check_writable(to)
    asked = Measuring(config, sequence_length, sizes, ranks, threads, seconds)
    with counted(console, "measuring", "parts") as progress:
        found = measure(asked, progress)
    measured = profile_of(asked, found, source_of(model, ranks, threads, found[0].device))
    wires = [each.wire for each in found if each.wire is not None]
    link = link_of(wires) if wires else None
    save_profile([measured], [link] if link else [], to)
    console.print(profile_table(measured, link, found))
    caution = caution_of(asked, found)
    if caution is not None:
        console.print(Text.assemble(("caution: ", "yellow"), caution))
    say(f"wrote {to}")


def sizes_of(text: str) -> tuple[int, ...]:
    """Return the sizes in a list like 1,2,4."""
    try:
        return tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError:
        raise ConfigError(
            f"--micro-batch is {text!r}; give whole numbers with commas between, as 1,2,4"
        ) from None


def source_of(model: str, ranks: int, threads: int, device: str) -> str:
    """Return where a profile is from: what was measured, how, when, and on what."""
    from datetime import date

    name = _processor() if device == "cpu" else device
    how = f"{_count(ranks, 'rank')} of {_count(threads, 'thread')}"
    label = Path(model).name if Path(model).is_dir() else model
    return f"raymoe profile, {label}, {how}, {date.today()}, {name}"


def _processor() -> str:
    """Return the name the processor gives itself, else its architecture."""
    import platform

    lines = _CPU_FACTS.read_text().splitlines() if _CPU_FACTS.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _check_writable(to: Path) -> None:
    """Refuse before measuring what could not be written after it."""
    if to.is_dir() or not to.parent.is_dir():
        raise ConfigError(f"cannot write a profile to {to}; name a file in a directory that exists")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
