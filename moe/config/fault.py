"""Faults as values: what goes wrong, on which rank, at which step, in which part of the work.

The same value drives tests, ``raymoe train --fault`` and the soak. As text:

    kill:rank=3,step=5,phase=backward     kill, hang and raise happen in the process of the rank
    node:rank=2,step=4                    node and drain happen to the node of the rank
    drain:rank=2,step=4,seconds=30        before a step; seconds are the notice that the node gives
"""

import re
from dataclasses import dataclass, fields
from typing import Literal, get_args

from moe.config.overrides import hint
from moe.errors import ConfigError

ProcessKind = Literal["kill", "hang", "raise"]
NodeKind = Literal["drain", "node"]
FaultKind = ProcessKind | NodeKind

PROCESS_KINDS: tuple[ProcessKind, ...] = get_args(ProcessKind)
"""SIGKILL, SIGSTOP, and an error as a device raises it: a rank does it to itself."""
NODE_KINDS: tuple[NodeKind, ...] = get_args(NodeKind)
"""A notice that the node will go, and a node that is gone; whoever drives the run does it."""
FAULT_KINDS: tuple[FaultKind, ...] = (*PROCESS_KINDS, *NODE_KINDS)

StepPhase = Literal["step", "forward", "backward", "reduction", "update"]
BoundaryPhase = Literal["snapshot", "copy", "write", "resize"]
Phase = Literal["start"] | StepPhase | BoundaryPhase

STEP_PHASES: tuple[StepPhase, ...] = get_args(StepPhase)
"""Before the step; in a forward pass; in a backward pass; while gradients are summed; while weights
move."""
BOUNDARY_PHASES: tuple[BoundaryPhase, ...] = get_args(BoundaryPhase)
"""While a snapshot is copied; while a copy goes to another rank; while a checkpoint is written;
while ranks move to another plan."""
PHASES: tuple[Phase, ...] = ("start", *STEP_PHASES, *BOUNDARY_PHASES)
"""``start`` is while the rank is built."""

_FORM = "KIND:rank=R,step=S,phase=PHASE, as in kill:rank=3,step=5,phase=backward"
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, once, at the first chance with at least ``step`` steps done.

    ``rank`` is a global rank of the plan. A ``phase`` within a step comes in every step, so it
    happens in the step that has the number ``step``. Other phases come at some boundaries between
    steps alone: then it happens at the first one from ``step`` on. ``phase`` is None for ``drain``
    and ``node``, which happen before the step; ``seconds`` is the notice of a ``drain``, None for
    one that names no end. ConfigError where the parts do not belong together.
    """

    kind: FaultKind
    rank: int
    step: int
    phase: Phase | None = None
    seconds: int | None = None

    def __post_init__(self) -> None:
        _check_word("kind", self.kind, FAULT_KINDS)
        for key in ("rank", "step", "seconds"):
            _check_number(key, getattr(self, key))
        if self.in_process:
            _check_word("phase", self.phase, PHASES)
        elif self.phase is not None:
            raise ConfigError(
                f"a fault of kind {self.kind} happens to the node of its rank before a step, so it "
                f"has no phase; found phase={self.phase}, remove it"
            )
        if self.seconds is not None and self.kind != "drain":
            raise ConfigError(
                f"seconds is the notice of a drain; a fault of kind {self.kind} has none; remove it"
            )

    @property
    def in_process(self) -> bool:
        """Whether the rank does it to itself; else it happens to the node of the rank."""
        return self.kind in PROCESS_KINDS

    def __str__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        given = [f"{key}={value}" for key, value in values.items() if value is not None]
        return f"{self.kind}:{','.join(given)}"


def parse_fault(text: str) -> Fault:
    """Return the fault of a text; ConfigError says what is wrong and what is allowed."""
    try:
        return _parsed(text)
    except ConfigError as error:
        raise ConfigError(f"fault {text!r}: {error}") from None


def _parsed(text: str) -> Fault:
    kind, colon, rest = text.strip().partition(":")
    if not colon:
        raise ConfigError(f"expected {_FORM}")
    keys = [field.name for field in fields(Fault)[1:]]
    given: dict[str, str] = {}
    for item in rest.split(","):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ConfigError(f"{item.strip()!r} is not key=value; expected {_FORM}")
        if key not in keys:
            raise ConfigError(f"unknown key {key}; {hint(key, keys)}")
        if key in given:
            raise ConfigError(f"{key} is given twice; give it once")
        given[key] = value
    missing = [key for key in ("rank", "step") if key not in given]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} missing; expected {_FORM}")
    values = {key: value if key == "phase" else _number(key, value) for key, value in given.items()}
    return Fault(kind, **values)  # type: ignore[arg-type]  # the fault checks its words itself


def _number(key: str, value: str) -> int:
    if not _NUMBER.fullmatch(value):
        raise ConfigError(f"{key} is {value!r}; give a whole number from 0 on")
    return int(value)


def _check_number(key: str, value: int | None) -> None:
    least = 1 if key == "seconds" else 0
    if value is not None and value < least:
        raise ConfigError(f"{key} is {value}; give a whole number from {least} on")


def _check_word(key: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is None:
        raise ConfigError(f"{key} missing; give one of {', '.join(known)}")
    if value not in known:
        raise ConfigError(f"there is no {key} {value!r}; give one of {', '.join(known)}")
