"""The arguments of the Ray Serve application, from code or from its YAML."""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from actors.commands import Answering
from actors.step.replicas import check_one_replica
from moe.checkpoint.adapters.files import AdapterFiles
from moe.checkpoint.reader import Checkpoint
from moe.config.answering import (
    CACHE_TOKENS,
    TIME_SHARE,
    CacheKind,
    OnNewWeights,
    Routing,
    WeightKind,
)
from moe.config.merging import check_served
from moe.config.model import ModelConfig
from moe.errors import ConfigError, PlanError
from moe.nn.inference.adapters import BYTES
from moe.nn.inference.rows import BLOCK
from moe.planning.counts.workload import Workload
from moe.planning.devices.needs import check_needs
from moe.planning.plan.file import load_plan
from moe.planning.plan.plan import Plan
from pipelines.serving.access import Access
from pipelines.serving.adapters import AdapterMemory
from pipelines.serving.batching.batcher import Room
from pipelines.serving.limits import Limits
from pipelines.serving.text.text import Text

KEYS_VARIABLE = "RAYMOE_API_KEYS"
"""Environment variable with API keys, parted by spaces or commas, where no argument gives them."""

_LIMITS = Limits()
_KEY = re.compile(r"[!-~]+")
_ORIGIN = re.compile(r"https?://[^/?#]+")


Kind = TypeVar("Kind", bound="AnyArguments")


class AnyArguments(BaseModel):
    """What every server is given: its public ``name``, and its limits.

    ``cache`` says how the ranks keep keys and values, and ``cache_tokens`` for how many tokens of
    all sequences together; that memory is taken at the start. ``launch_seconds`` is how long it may
    take until the ranks answer. A server that goes has ``drain_seconds`` to answer what it has
    begun. ``allowed_origins`` are the web pages, by origin, whose scripts may call the server;
    ``*`` is any page. Where ``api_keys`` are given, a request needs one of them. Replicas and their
    front are on Ray nodes with ``driver_labels``, each a value or a selector of Ray.
    The other fields are the limits of ``Limits``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(default=None, min_length=1)
    cache: CacheKind = "fp32"
    cache_tokens: int = Field(default=CACHE_TOKENS, ge=BLOCK)
    launch_seconds: float = Field(default=180.0, gt=0)
    waiting: int = Field(default=_LIMITS.waiting, gt=0)
    running: int = Field(default=_LIMITS.running, gt=0)
    request_seconds: float = Field(default=_LIMITS.request_seconds, gt=0)
    prefill_tokens: int = Field(default=_LIMITS.prefill_tokens, gt=0)
    chat_tokens: int = Field(default=_LIMITS.chat_tokens, gt=0)
    idle_seconds: float = Field(default=_LIMITS.idle_seconds, gt=0)
    drain_seconds: float = Field(default=60.0, gt=0)
    allowed_origins: tuple[str, ...] = ("*",)
    api_keys: tuple[SecretStr, ...] = ()
    driver_labels: dict[str, str] = Field(default_factory=dict)

    @field_validator("driver_labels")
    @classmethod
    def _are_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        try:
            check_needs("driver_labels", (), tuple(labels.items()))
        except PlanError as error:
            raise ValueError(str(error)) from None
        return labels

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("give origins like https://chat.example, without a path, or *")
        return origins

    @field_validator("api_keys")
    @classmethod
    def _fit_a_header(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(_KEY.fullmatch(key.get_secret_value()) for key in keys):
            raise ValueError("a key is odd")
        return keys

    @property
    def limits(self) -> Limits:
        """The limits among the arguments."""
        return Limits(**{name: getattr(self, name) for name in asdict(_LIMITS)})

    @property
    def access(self) -> Access:
        """Who may ask. Ray Serve's proxy gives requests their ids."""
        keys = [key.get_secret_value() for key in self.api_keys]
        return Access(self.allowed_origins, keys, request_ids=False)

    @property
    def answering(self) -> Answering:
        """How the ranks answer."""
        return Answering(self.cache_tokens // BLOCK, cache=self.cache)

    def room_over(self, stages: int, config: ModelConfig) -> Room:
        """Return what an engine over so many stages holds.

        Where experts are merged, the gates of a prompt are kept to its end, and its blocks too.
        """
        merged = config.moe is not None and config.moe.merged
        window = None if merged else config.sliding_window
        room = Room(self.answering.blocks, self.running, window, merged=merged)
        return room.over(stages)


class ServeArguments(AnyArguments):
    """A server of a model directory, by default on one rank, under the name of the directory.

    ``weights`` says how the ranks keep their weights. ``spares`` processes wait on each node to
    take the place of a rank that is lost. ``adapters`` are loaded at the start, by the names that
    requests give; with ``load_adapters`` requests may load and drop others. ``adapter_gb`` is the
    memory of each rank for them. Every ``rebalance_seconds``, if not 0, experts go to other ranks
    of their gang where the slowest rank would have less to do by the part ``rebalance_gain``. A
    launch waits ``wait_seconds`` for room, as where worker pods come after the head, and asks the
    autoscaler for nodes. ``step_seconds`` is how long a batch may take before a rank counts as
    lost.

    ``replicas`` answer together, each with the ranks of one plan. With ``max_replicas`` there are
    as many as the load asks for, up to so many and not fewer than ``replicas``, which may be 0: one
    is added where more than ``waiting_tokens`` have waited in each for ``upscale_seconds``, and one
    goes where the others have had room for ``downscale_seconds``. While there is none, a request
    waits (``asleep``), or is refused and starts one. ``routing`` prefers the replica that has
    computed a prompt that begins alike, or the one with the least to do. Where the model is
    changed, ``surge`` replicas more than there should be may be there meanwhile.
    """

    model: Path
    plan: Path | None = None
    adapters: dict[str, Path] = Field(default_factory=dict)
    adapter_gb: float = Field(default=1.0, gt=0)
    load_adapters: bool = False
    rebalance_seconds: float = Field(default=0.0, ge=0)
    rebalance_gain: float = Field(default=0.1, gt=0, lt=1)
    weights: WeightKind = "fp32"
    spares: int = Field(default=1, ge=0)
    wait_seconds: float = Field(default=0.0, ge=0)
    step_seconds: float = Field(default=120.0, gt=0)
    replicas: int = Field(default=1, ge=0)
    max_replicas: int | None = Field(default=None, validate_default=True)
    waiting_tokens: int = Field(default=8192, gt=0)
    upscale_seconds: float = Field(default=10.0, ge=0)
    downscale_seconds: float = Field(default=300.0, ge=0)
    asleep: Literal["wait", "refuse"] = "wait"
    routing: Routing = "prefix"
    surge: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _loading_needs_a_key(self) -> "ServeArguments":
        if self.load_adapters and not self.api_keys:
            raise ValueError(
                "load_adapters lets requests name directories that the ranks read; give api_keys, "
                "so that not everybody can"
            )
        if self.load_adapters and self.several:
            raise ValueError(
                "load_adapters does not go with several replicas: a request reaches one of them; "
                "give adapters, which all load at the start"
            )
        return self

    @model_validator(mode="after")
    def _gain_of_a_rebalance(self) -> "ServeArguments":
        gain = ServeArguments.model_fields["rebalance_gain"].default
        if self.rebalance_seconds == 0 and self.rebalance_gain != gain:
            raise ValueError(
                "rebalance_gain has no effect with rebalance_seconds = 0, which moves no experts"
            )
        return self

    @field_validator("max_replicas")
    @classmethod
    def _are_some(cls, most: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("replicas", 1)
        if most is None and least == 0:
            raise ValueError("replicas is 0; say how many there may be when requests come")
        if most is not None and most < max(least, 1):
            raise ValueError(f"give {max(least, 1)} or more, as replicas is {least}")
        return most

    @property
    def most(self) -> int:
        """The most replicas that there may be at once."""
        return max(self.replicas, self.max_replicas or 0) + self.surge

    @property
    def several(self) -> bool:
        """Whether there may be another number of replicas than one."""
        return self.replicas != 1 or self.max_replicas is not None or self.surge > 0

    @property
    def room_seconds(self) -> float:
        """Seconds that a launch waits for room; a replica that goes may have it for a while."""
        going = self.drain_seconds + self.launch_seconds if self.several else 0.0
        return max(self.wait_seconds, going)

    @property
    def refuses_asleep(self) -> bool:
        """Whether requests are refused while there is no replica."""
        return self.replicas == 0 and self.asleep == "refuse"

    @property
    def access(self) -> Access:
        """Who may ask, and whether requests may load adapters."""
        return replace(super().access, loads_adapters=self.load_adapters)

    @property
    def served_name(self) -> str:
        """The name that requests give as their model."""
        return self.name or self.model.absolute().name

    def load_plan(self) -> Plan | None:
        """Return the plan, or None if none is given."""
        return None if self.plan is None else load_plan(self.plan)

    def workload(self, config: ModelConfig) -> Workload:
        """Return the workload of a plan for serving: keys and values of as many tokens as are
        kept, and a batch of ``prefill_tokens``.
        """
        return Workload(
            sequence_length=self.cache_tokens,
            micro_batch=1,
            micro_batches=1,
            training=False,
            pass_tokens=self.prefill_tokens,
        )

    @property
    def answering(self) -> Answering:
        """How the ranks answer, and keep their weights."""
        return replace(super().answering, weights=self.weights)

    def room(self, config: ModelConfig, plan: Plan) -> Room:
        """Return what an engine over the ranks of a plan holds."""
        return self.room_over(len(plan.stages), config)

    def check(self) -> None:
        """Raise errors of the model, its tokenizer or its plan before anything starts."""
        config = Checkpoint.open(self.model).config
        check_served(config)
        plan = self.load_plan()
        if plan is not None:
            plan.check_model(config)
            check_one_replica(plan)
        self.check_rebalance(config, plan)
        for directory in self.adapters.values():
            AdapterFiles(directory, config)
        Text.open(self.model)

    def check_rebalance(self, config: ModelConfig, plan: Plan | None) -> None:
        """Raise ConfigError where experts are to move and cannot: one rank holds all of a layer."""
        alone = plan is None or plan.gang_size == 1
        if self.rebalance_seconds and (alone or not config.placed_experts):
            what = (
                "its gangs have one rank each"
                if alone
                else "the model has no experts that a rank holds alone"
            )
            raise ConfigError(
                f"rebalance_seconds moves experts between the ranks of a gang, but {what}; give a "
                "plan with gangs of several ranks for a model with experts, or leave it out"
            )

    def adapter_memory(self, config: ModelConfig, plan: Plan) -> AdapterMemory:
        """Return the memory of the ranks of a plan for adapters."""
        shares = [plan.share(seat) for seat in plan.seats]
        return AdapterMemory(config, shares, BYTES[self.weights], int(self.adapter_gb * 1e9))


class RunArguments(AnyArguments):
    """A server that answers with the ranks of the training run ``run``, under the run's name.

    Answering takes at most ``time_share`` of the run's time, of 1. ``on_new_weights`` says what
    becomes of the keys and values of running sequences when the run has done a step.
    """

    run: str = Field(min_length=1)
    time_share: float = Field(default=TIME_SHARE, gt=0, lt=1)
    on_new_weights: OnNewWeights = "continue"

    @property
    def served_name(self) -> str:
        """The name that requests give as their model."""
        return self.name or self.run

    def check(self) -> None:
        """Do nothing: whether there is such a run is known on its cluster alone."""


def parse_arguments(args: Mapping[str, Any]) -> ServeArguments | RunArguments:
    """Return the typed arguments: those of a run where ``run`` is among them, else of a model."""
    return parse_as(RunArguments, args) if "run" in args else parse_as(ServeArguments, args)


def parse_as(kind: type[Kind], args: Mapping[str, Any]) -> Kind:
    """Return the typed arguments of one kind; ConfigError names the first wrong argument.

    Keys that no argument gives are taken from the environment.
    """
    keys = os.environ.get(KEYS_VARIABLE, "").replace(",", " ").split()
    given = {key: value for key, value in args.items() if key != "api_keys" or value}
    try:
        return kind.model_validate({"api_keys": keys} | given)
    except ValidationError as error:
        fault = error.errors()[0]
        key = str(fault["loc"][0]) if fault["loc"] else str(fault["msg"]).split()[2]
        raise ConfigError(f"serving argument {key}: {_said(key, kind, fault)}") from None


def _said(key: str, kind: type[AnyArguments], fault: Mapping[str, Any]) -> str:
    if fault["type"] == "missing":
        return "missing; give the directory of the model, or as run the name of a training run"
    if fault["type"] == "extra_forbidden":
        if kind is RunArguments and key in ServeArguments.model_fields:
            return "does not go with run: the ranks of a run answer as they are; leave it out"
        if kind is ServeArguments and key in RunArguments.model_fields:
            return "goes with run alone; leave it out, or give the name of a run"
        known = list(kind.model_fields)
        close = difflib.get_close_matches(key, known, n=1)
        return f"unknown; did you mean {close[0]}?" if close else f"unknown; known: {known}"
    if key == "api_keys":
        return "give a list of keys of letters, digits and signs, without spaces"
    said = str(fault["msg"]).removeprefix("Value error, ")
    return f"{said}; found {fault['input']!r}" if fault["loc"] else said
