"""What the verbs of the planner are told alike: a model, devices, the work. No torch, no Ray."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.errors import ConfigError
from pipelines.screen.terminal import caution

if TYPE_CHECKING:
    from moe.config.model import ModelConfig
    from moe.planning.counts.workload import Numerics
    from moe.planning.devices.inventory import Inventory

Architecture = Annotated[
    str, typer.Argument(help="Model directory, of which config.json is read, or a preset's name.")
]
InventoryFile = Annotated[Path | None, typer.Option(help="Inventory file: docs/guide/planning.md.")]
ProfileFile = Annotated[Path | None, typer.Option(help="What raymoe profile measured.")]
Length = Annotated[int, typer.Option(help="Tokens of a sequence.")]
MicroBatch = Annotated[int | None, typer.Option(help="Sequences of a micro-batch; 1.")]
MicroBatches = Annotated[int | None, typer.Option(help="Micro-batches of a step and replica; 8.")]
Sequences = Annotated[
    int | None,
    typer.Option(help="Sequences of a step; the size of a micro-batch is then searched too."),
]
NumericsName = Annotated[str, typer.Option("--numerics", help="float32, bf16 or megatron.")]
Imbalance = Annotated[
    float, typer.Option(help="Load of the fullest rank of a gang over the mean, 1 or more.")
]

_MICRO_BATCHES = 8


def architecture(model: str) -> "ModelConfig":
    """Return the sizes of a model, by its directory or its preset; say what config.json does not.

    No weights are looked at, unless they tell whether the head is tied to the embedding.
    """
    from moe.checkpoint.architecture import read_architecture
    from moe.config.overrides import hint
    from moe.config.presets import PRESETS

    if Path(model).is_dir():
        found = read_architecture(Path(model))
        for note in found.notes:
            caution(note)
        return found.config
    if model not in PRESETS:
        raise ConfigError(
            f"{model} is no model directory, which has a config.json, and no preset; "
            f"{hint(model, PRESETS)}"
        )
    return PRESETS[model].config


def devices_of(file: Path, profile: Path | None = None) -> "Inventory":
    """Return the devices of an inventory file, with what a profile measured of them."""
    from moe.planning.devices.inventory_file import load_inventory

    return measured(load_inventory(file), profile)


def measured(found: "Inventory", profile: Path | None) -> "Inventory":
    """Return an inventory with what a profile measured."""
    from moe.planning.devices.inventory_file import load_profile

    return found if profile is None else found.measured(*load_profile(profile))


def numerics_named(name: str) -> "Numerics":
    """Return the bytes of numbers by name."""
    from moe.config.overrides import hint
    from moe.planning.counts.workload import NUMERICS

    if name not in NUMERICS:
        raise ConfigError(f"no numerics {name!r}; {hint(name, NUMERICS)}")
    return NUMERICS[name]


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of a step of all replicas; the size of a micro-batch, None where it is open."""

    sequences: int
    micro_batch: int | None

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one replica that has them all."""
        return max(1, self.sequences // (self.micro_batch or 1))


def batch(
    sequences: int | None, micro_batch: int | None, micro_batches: int | None, replicas: int = 1
) -> Batch:
    """Return the sequences of a step from how they were given."""
    given = {"sequences": sequences, "micro-batch": micro_batch, "micro-batches": micro_batches}
    for name, value in given.items():
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}; give at least 1")
    if sequences is None:
        size = micro_batch or 1
        return Batch(size * (micro_batches or _MICRO_BATCHES) * replicas, size)
    if micro_batches is not None:
        raise ConfigError(
            f"--sequences {sequences} and --micro-batches {micro_batches} both say how long a step "
            "is; give one of them"
        )
    if micro_batch is not None and sequences % micro_batch:
        raise ConfigError(
            f"{sequences} sequences are not whole micro-batches of {micro_batch}; "
            "make --micro-batch a divisor of --sequences"
        )
    return Batch(sequences, micro_batch)
