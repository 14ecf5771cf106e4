"""The arguments of the Ray Serve application, from code or from its YAML."""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from actors.step.replicas import check_one_replica
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.errors import ConfigError
from moe.planning.counts.workload import Workload
from moe.planning.plan.file import load_plan
from moe.planning.plan.plan import Plan
from pipelines.serving.access import Access
from pipelines.serving.limits import Limits
from pipelines.serving.text.text import Text

ROOM_TOKENS = 4096
"""Tokens of context for which a plan made here must have memory.

A model may accept far more tokens than one device can hold keys and values for (131072 tokens of
Llama-3.2-1B take 8.6 GB), and few requests need that many. The cache grows with the sequence, so
longer sequences use the remaining memory; if the memory does not suffice, that request fails and
the server still starts.
"""

KEYS_VARIABLE = "RAYMOE_API_KEYS"
"""Environment variable with API keys, parted by spaces or commas, where no argument gives them."""

_LIMITS = Limits()
_KEY = re.compile(r"[!-~]+")
_ORIGIN = re.compile(r"https?://[^/?#]+")


class ServeArguments(BaseModel):
    """A model directory, its plan (default: one rank), its public name (default: the directory's).

    ``launch_seconds`` is how long the actors may take to start, ``step_seconds`` how long one chunk
    of a prompt or one token may take before the engine counts as lost. ``allowed_origins`` are the
    web pages, by origin, whose scripts may call the server; ``*`` is any page. Where ``api_keys``
    are given, a request needs one of them. The other fields are the limits of ``Limits``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path
    plan: Path | None = None
    name: str | None = Field(default=None, min_length=1)
    launch_seconds: float = Field(default=180.0, gt=0)
    step_seconds: float = Field(default=120.0, gt=0)
    waiting: int = Field(default=_LIMITS.waiting, gt=0)
    request_seconds: float = Field(default=_LIMITS.request_seconds, gt=0)
    prefill_tokens: int = Field(default=_LIMITS.prefill_tokens, gt=0)
    chat_tokens: int = Field(default=_LIMITS.chat_tokens, gt=0)
    idle_seconds: float = Field(default=_LIMITS.idle_seconds, gt=0)
    allowed_origins: tuple[str, ...] = ("*",)
    api_keys: tuple[SecretStr, ...] = ()

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
    def served_name(self) -> str:
        """The name that requests give as their model."""
        return self.name or self.model.absolute().name

    @property
    def limits(self) -> Limits:
        """The limits among the arguments."""
        return Limits(**{name: getattr(self, name) for name in asdict(_LIMITS)})

    @property
    def access(self) -> Access:
        """Who may ask. Ray Serve's proxy gives requests their ids."""
        keys = [key.get_secret_value() for key in self.api_keys]
        return Access(self.allowed_origins, keys, request_ids=False)

    def load_plan(self) -> Plan | None:
        """Return the plan, or None if none is given."""
        return None if self.plan is None else load_plan(self.plan)

    def workload(self, config: ModelConfig) -> Workload:
        """Return the workload of a plan for serving: one sequence, whose prompt is read in
        parts.
        """
        return Workload(
            sequence_length=min(config.max_positions, ROOM_TOKENS),
            micro_batch=1,
            micro_batches=1,
            training=False,
            pass_tokens=self.prefill_tokens,
        )

    def check(self) -> None:
        """Raise errors of the model, its tokenizer or its plan before anything starts."""
        config = Checkpoint.open(self.model).config
        plan = self.load_plan()
        if plan is not None:
            plan.check_model(config)
            check_one_replica(plan)
        Text.open(self.model)


def parse_arguments(args: Mapping[str, Any]) -> ServeArguments:
    """Return the typed arguments; ConfigError names the first wrong argument.

    Keys that no argument gives are taken from the environment.
    """
    keys = os.environ.get(KEYS_VARIABLE, "").replace(",", " ").split()
    given = {key: value for key, value in args.items() if key != "api_keys" or value}
    try:
        return ServeArguments.model_validate({"api_keys": keys} | given)
    except ValidationError as error:
        fault = error.errors()[0]
        key = str(fault["loc"][0])
        raise ConfigError(f"serving argument {key}: {_said(key, fault['type'], fault)}") from None


def _said(key: str, kind: str, fault: Mapping[str, Any]) -> str:
    if kind == "missing":
        return "missing; give the directory of the model"
    if kind == "extra_forbidden":
        known = list(ServeArguments.model_fields)
        close = difflib.get_close_matches(key, known, n=1)
        return f"unknown; did you mean {close[0]}?" if close else f"unknown; known: {known}"
    if key == "api_keys":
        return "give a list of keys of letters, digits and signs, without spaces"
    return f"{str(fault['msg']).removeprefix('Value error, ')}; found {fault['input']!r}"
