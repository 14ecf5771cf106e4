"""One training run of a study, as a value: where its weights begin, its options, its budget."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from moe.config.model import ModelConfig
from moe.surgery.options import UpcycleOptions

Spoiling = Literal["half unused", "two take half"]
"""Bad routers, where a token takes two experts: half of the experts are never chosen (of eight or
more); or two experts take half of all pairs.
"""


@dataclass(frozen=True, slots=True)
class Scratch:
    """Random weights from the seed of the arm; ``spoiled`` then makes the routers bad."""

    config: ModelConfig
    spoiled: Spoiling | None = None


@dataclass(frozen=True, slots=True)
class Continued:
    """The weights that another arm had after ``part`` of its budget, with new moments."""

    arm: "Arm"
    part: float


@dataclass(frozen=True, slots=True)
class Upcycled:
    """A dense arm after ``part`` of its budget, upcycled with the seed of this arm."""

    arm: "Arm"
    part: float
    options: UpcycleOptions


Start = Scratch | Continued | Upcycled


@dataclass(frozen=True, slots=True)
class Arm:
    """A run over ``tokens`` tokens, with learning rates from ``peak`` to ``floor`` by cosine.

    ``looks`` are the parts of the budget after which the model is evaluated; the last is the whole.
    ``keeps`` are those after which its weights are kept. ``balance`` and ``routing`` are keys of
    these sections of a run file. Two arms are the same run if all of this is equal.
    """

    name: str
    start: Start
    tokens: int
    seed: int
    peak: float = 3e-3
    floor: float = 3e-4
    warmup: float = 0.05
    looks: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    keeps: tuple[float, ...] = ()
    balance: Mapping[str, Any] = field(default_factory=dict)
    routing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name of the arm's folder: its name and a hash of everything that it is."""
        told = json.dumps(_told(self), sort_keys=True, default=str)
        plain = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return f"{plain}-s{self.seed}-{hashlib.sha256(told.encode()).hexdigest()[:10]}"


def _told(arm: Arm) -> dict[str, Any]:
    """Return everything that an arm is, with the kinds of its start and of those before it."""
    table = asdict(arm) | {"start": {"kind": type(arm.start).__name__}}
    if isinstance(arm.start, Scratch):
        return table | {"start": table["start"] | asdict(arm.start)}
    before = {"arm": _told(arm.start.arm), "part": arm.start.part}
    if isinstance(arm.start, Upcycled):
        method = arm.start.options.method
        before["options"] = asdict(arm.start.options) | {"method": [method.name, asdict(method)]}  # type: ignore[call-overload]
    return table | {"start": table["start"] | before}
