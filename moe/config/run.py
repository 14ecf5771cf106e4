"""A run, typed: one TOML file in, frozen sections out. Defaults live here and nowhere else."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from moe.errors import ConfigError


class Section(BaseModel):
    """A table of the run file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(Section):
    """The checkpoint that training starts from, a Hugging Face directory."""

    path: Path


class DataSection(Section):
    """Token shards made by ``raymoe tokenize``."""

    path: Path
    seed: int = Field(default=0, ge=0)
    """Seeds the order of the training sequences."""


class TrainSection(Section):
    """Batch, optimiser and learning rate. Batches are counted in sequences."""

    steps: int = Field(gt=0)
    global_batch: int = Field(gt=0)
    micro_batch: int = Field(default=1, gt=0)
    learning_rate: float = Field(gt=0)
    min_learning_rate: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` computes in bfloat16 and keeps float32 weights and optimiser states."""

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one step."""
        return self.global_batch // self.micro_batch

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> "TrainSection":
        if self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of "
                f"micro_batch {self.micro_batch}"
            )
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate} is above "
                f"learning_rate {self.learning_rate}"
            )
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is above steps {self.steps}")
        return self


class RoutingSection(Section):
    """How tokens reach experts while training."""

    capacity_factor: float | None = Field(default=None, gt=0)
    """Slots of an expert in units of a fair share; None drops no token."""
    drop_policy: Literal["probability", "position"] = "probability"
    virtual_capacity_factor: float = Field(default=1.0, gt=0)
    """Measures the drop rate that a dropless run would have had at this capacity."""

    @model_validator(mode="after")
    def _one_capacity(self) -> "RoutingSection":
        if self.capacity_factor is None and self.drop_policy != "probability":
            raise ValueError(f"drop_policy {self.drop_policy} needs a capacity_factor to drop by")
        if self.capacity_factor is not None and self.virtual_capacity_factor != 1.0:
            raise ValueError(
                "with a capacity_factor the drop rate is real; remove virtual_capacity_factor"
            )
        return self


class AdaptiveCoefficient(Section):
    """Skywork-MoE section 4.2: alpha follows the drop rate of its layer."""

    type: Literal["adaptive"] = "adaptive"
    xi: float = Field(default=0.2, gt=0)
    maximum: float = Field(default=0.01, gt=0)
    beta: float = Field(default=0.99, ge=0, lt=1)
    start: float = Field(default=0.01, ge=0)


class FixedCoefficient(Section):
    """One alpha for every layer and step."""

    type: Literal["fixed"]
    value: float = Field(ge=0)


class BalanceSection(Section):
    """The auxiliary loss that keeps experts evenly loaded, taken per layer."""

    loss: Literal["skywork", "switch"] = "skywork"
    coefficient: Annotated[AdaptiveCoefficient | FixedCoefficient, Field(discriminator="type")] = (
        AdaptiveCoefficient()
    )

    @field_validator("coefficient", mode="before")
    @classmethod
    def _adaptive_unless_named(cls, value: Any) -> Any:
        return {"type": "adaptive", **value} if isinstance(value, dict) else value


class PlanSection(Section):
    """A plan file, or the shape of the plan to make for this cluster."""

    path: Path | None = None
    stages: int = Field(default=1, gt=0)
    gang: int = Field(default=1, gt=0)
    threads: int = Field(default=1, gt=0)
    """Cores of each rank on nodes without GPUs."""

    @model_validator(mode="after")
    def _file_or_shape(self) -> "PlanSection":
        if self.path is not None and (self.stages, self.gang, self.threads) != (1, 1, 1):
            raise ValueError("plan.path names a whole plan; remove the other keys of [plan]")
        return self


class CheckpointSection(Section):
    """Where the run leaves its results."""

    path: Path
    every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 writes only the last."""
    keep: int = Field(default=2, gt=0)


class ClusterSection(Section):
    """The Ray cluster and the deadlines of everything that waits on it, in seconds."""

    address: str = "local"
    """``local`` starts Ray here; otherwise the address of a cluster, or ``auto``."""
    cpus: int | None = Field(default=None, gt=0)
    """Logical CPUs of a Ray started here, more than its cores if need be; default one per core."""
    launch_seconds: float = Field(default=180.0, gt=0)
    step_seconds: float = Field(default=1800.0, gt=0)
    group_seconds: float = Field(default=120.0, gt=0)
    max_failures: int = Field(default=2, ge=0)
    """Restarts of the driving worker by Ray Train before the run fails."""

    @model_validator(mode="after")
    def _cpus_of_a_local_ray(self) -> "ClusterSection":
        if self.cpus is not None and self.address != "local":
            raise ValueError(f"cpus is for a Ray started here, but address is {self.address}")
        return self


class RunConfig(Section):
    """One run file."""

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$")
    model: ModelSection
    data: DataSection
    train: TrainSection
    checkpoint: CheckpointSection
    routing: RoutingSection = RoutingSection()
    balance: BalanceSection = BalanceSection()
    plan: PlanSection = PlanSection()
    cluster: ClusterSection = ClusterSection()


def load_run(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run file and apply ``section.key=value`` overrides; values are TOML, or bare text."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no run file at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    for override in overrides:
        _override(table, override)
    return parse_run(table, str(path))


def parse_run(table: Mapping[str, Any], source: str) -> RunConfig:
    """Turn a table into a RunConfig; ConfigError lists every fault with its dotted key."""
    try:
        return RunConfig.model_validate(table)
    except ValidationError as error:
        faults = "\n".join(f"  {_fault(dict(entry))}" for entry in error.errors())
        raise ConfigError(f"{source} is not a run file:\n{faults}") from None


def dump_run(config: RunConfig) -> str:
    """Return the resolved run, defaults included, as JSON."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"


def _override(table: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ConfigError(f"--set {override}: expected section.key=value")
    *sections, key = dotted.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {section} is a value, not a section")
    table[key] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _fault(entry: Mapping[str, Any]) -> str:
    location = [str(part) for part in entry["loc"] if part not in ("adaptive", "fixed")]
    dotted = ".".join(location) or "run"
    if entry["type"] == "extra_forbidden":
        return f"{dotted}: unknown key{_nearest(location)}"
    if entry["type"] == "missing":
        return f"{dotted}: missing; the run file must give it"
    message = str(entry["msg"]).removeprefix("Value error, ")
    found = entry.get("input")
    shown = "" if isinstance(found, dict | Section) else f"; found {found!r}"
    return f"{dotted}: {message}{shown}"


def _nearest(location: list[str]) -> str:
    fields = _fields(RunConfig, location[:-1])
    close = difflib.get_close_matches(location[-1], fields, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(sorted(fields))}"


def _fields(section: type[Section], location: list[str]) -> list[str]:
    for name in location:
        annotation = section.model_fields[name].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return sorted({*AdaptiveCoefficient.model_fields, *FixedCoefficient.model_fields})
        section = annotation
    return list(section.model_fields)
