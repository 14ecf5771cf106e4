"""Arguments that the planning commands share: a model, devices, the work. No torch, no Ray."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.errors import ConfigError
from pipelines.screen.terminal import caution

if TYPE_CHECKING:
    from moe.config.model import ModelConfig
    from moe.planning.counts.workload import Workload
    from moe.planning.devices.inventory import Inventory

Architecture = Annotated[
    str,
    typer.Argument(help="Model directory (only config.json is read), or the name of a preset."),
]
InventoryFile = Annotated[
    Path | None, typer.Option(help="Inventory file (TOML); docs/guide/planning.md describes it.")
]
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        help="Profile file that `raymoe profile` wrote.",
        show_default="rates of data sheets, or a count of FLOPs and bytes",
    ),
]
Length = Annotated[
    int | None,
    typer.Option(
        help="Tokens in each sequence.", show_default="512, or the positions of the model if fewer"
    ),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        help="Sequences in each micro-batch.", show_default="1; searched with --sequences"
    ),
]
MicroBatches = Annotated[
    int | None,
    typer.Option(help="Micro-batches of each replica in a step.", show_default="8"),
]
Sequences = Annotated[
    int | None,
    typer.Option(
        help="Sequences in a step of all replicas, in place of --micro-batches; the search then "
        "also chooses the size of a micro-batch."
    ),
]
Schedule = Annotated[
    str,
    typer.Option(
        help="Pipeline schedule: gpipe, 1f1b, interleaved-1f1b, zero-bubble or zbv.",
    ),
]
NumericsName = Annotated[
    str,
    typer.Option(
        "--numerics",
        help="Number formats: float32; bf16 (bfloat16 weights, float32 masters); megatron (the "
        "same with bfloat16 sums, to compare).",
    ),
]
Imbalance = Annotated[
    float, typer.Option(help="Expert load of the busiest rank of a gang over the mean; 1 is even.")
]
Page = Annotated[
    Path | None,
    typer.Option(help="Also draw the plan as a web page into this file; replaced where it exists."),
]

MOST_MICRO_BATCHES = 10_000
"""More are not simulated: a step of some stages then takes a minute to play."""

_MICRO_BATCHES = 8
_LENGTH = 512


def architecture(model: str) -> "ModelConfig":
    """Return the sizes of a model; print what is read otherwise than ``config.json`` says."""
    from pipelines.planning.architecture import architecture_of

    found = architecture_of(model)
    for note in found.notes:
        caution(note)
    return found.config


def devices_of(file: Path, profile: Path | None = None) -> "Inventory":
    """Return the devices of an inventory file, with what a profile measured of them."""
    from moe.planning.devices.inventory_file import load_inventory

    return measured(load_inventory(file), profile)


def measured(found: "Inventory", profile: Path | None) -> "Inventory":
    """Return an inventory with a profile's measurements; PlanError for a kind nobody knows."""
    from moe.planning.devices.inventory_file import load_profile

    there = found if profile is None else found.measured(*load_profile(profile))
    there.check_kinds()
    return there


def at_least_one(**given: int | None) -> None:
    """Raise ConfigError for a number below 1, by the name of its option."""
    for name, value in given.items():
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; give at least 1")


def chosen(option: str, value: str, known: Collection[str]) -> str:
    """Return the value of an option that has few; ConfigError names the nearest."""
    from moe.config.overrides import hint

    if value not in known:
        raise ConfigError(f"{option} is {value!r}; {hint(value, known)}")
    return value


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of a step of all replicas; the size of a micro-batch, None where it is searched."""

    sequences: int
    micro_batch: int | None

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one replica that has them all."""
        return max(1, self.sequences // (self.micro_batch or 1))


def batch(
    sequences: int | None, micro_batch: int | None, micro_batches: int | None, replicas: int = 1
) -> Batch:
    """Return the sequences of a step from the options that give them."""
    at_least_one(sequences=sequences, micro_batch=micro_batch, micro_batches=micro_batches)
    if sequences is None:
        size, count = micro_batch or 1, micro_batches or _MICRO_BATCHES
        _check_count(f"--micro-batches {count}", count)
        return Batch(size * count * replicas, size)
    if micro_batches is not None:
        raise ConfigError(
            f"--sequences {sequences} and --micro-batches {micro_batches} both give the size of a "
            "step; give one of them"
        )
    if micro_batch is not None and sequences % micro_batch:
        raise ConfigError(
            f"{sequences} sequences are not whole micro-batches of {micro_batch}; "
            "make --micro-batch a divisor of --sequences"
        )
    _check_count(f"--sequences {sequences}", sequences // (micro_batch or 1) // replicas)
    return Batch(sequences, micro_batch)


def _check_count(given: str, micro_batches: int) -> None:
    if micro_batches > MOST_MICRO_BATCHES:
        raise ConfigError(
            f"{given} is up to {micro_batches:,} micro-batches of a replica, but at most "
            f"{MOST_MICRO_BATCHES:,} are simulated; lower it, or raise --micro-batch"
        )


def length_for(config: "ModelConfig", asked: int | None) -> int:
    """Return the tokens of a sequence; ConfigError where the model has fewer positions."""
    if asked is None:
        return min(_LENGTH, config.max_positions)
    at_least_one(sequence_length=asked)
    if asked > config.max_positions:
        raise ConfigError(
            f"--sequence-length is {asked} but the model has {config.max_positions} positions; "
            "shorten the sequences, or choose a model with more positions"
        )
    return asked


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a step beside its sequences, as options give it."""

    sequence_length: int | None
    numerics: str = "float32"
    imbalance: float = 1.0
    schedule: str = "1f1b"
    training: bool = True
    weights: str | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no model could be given, by the option's name."""
        from moe.planning.counts.workload import NUMERICS
        from moe.planning.schedules.schedule import SCHEDULES

        at_least_one(sequence_length=self.sequence_length)
        chosen("--numerics", self.numerics, NUMERICS)
        chosen("--schedule", self.schedule, SCHEDULES)
        if self.training and self.weights is not None:
            raise ConfigError(
                f"--weights {self.weights} is for a server that holds them so; add --serving"
            )
        if not 1 <= self.imbalance < math.inf:
            raise ConfigError(
                f"--imbalance is {self.imbalance:g}; give the load of the busiest rank over the "
                "mean, which is 1 or more"
            )

    def workload(self, config: "ModelConfig", step: Batch, there: "Inventory") -> "Workload":
        """Return the workload of a step of a model on these devices."""
        from moe.config.quantised import form_named
        from moe.planning.counts.workload import NUMERICS, Workload

        return Workload(
            length_for(config, self.sequence_length),
            step.micro_batch or 1,
            step.micro_batches,
            training=self.training,
            schedule=self.schedule,
            numerics=NUMERICS[self.numerics],
            imbalance=self.imbalance,
            snapshots=there.of_cpus,
            gpus=not there.of_cpus,
            weights=None if self.weights is None else form_named(self.weights, config),
        )
