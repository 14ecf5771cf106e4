"""What every part of the check is given, and what it finds: values that pass between processes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

Figure: TypeAlias = float | int | str | bool | None

_MOST_WORDS = 400

JUDGED_CARD = "H200"
"""The card whose speed has bars; bars of correctness hold on every device."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device reaches at best: bf16 products, and copies, bytes read plus bytes written."""

    flops_per_second: float
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a part runs. ``tiny`` makes every shape small enough for seconds on a CPU.

    ``ceilings`` are None until the first part has measured them.
    """

    device: str
    tiny: bool
    ceilings: Ceilings | None = None

    @property
    def cuda(self) -> bool:
        """Whether the part runs on a GPU."""
        return self.device == "cuda"

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        return torch.device(self.device)

    @property
    def judges_speed(self) -> bool:
        """Whether figures of speed are compared with their bars here."""
        return self.cuda and not self.tiny and JUDGED_CARD in torch.cuda.get_device_name()

    def share_of_flops(self, flops_per_second: float) -> float | None:
        """Return a rate as a share of the ceiling of products; None while that is unknown."""
        return flops_per_second / self.ceilings.flops_per_second if self.ceilings else None

    def share_of_bytes(self, bytes_per_second: float) -> float | None:
        """Return a rate as a share of the ceiling of copies; None while that is unknown."""
        return bytes_per_second / self.ceilings.bytes_per_second if self.ceilings else None


@dataclass(frozen=True, slots=True)
class Bar:
    """A sentence about a figure; ``met`` is None where it is not judged on this device."""

    text: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the check: what was looked at, the figures, and the bars that they face."""

    what: str
    figures: Mapping[str, Figure]
    bars: tuple[Bar, ...] = field(default=())


def at_most(name: str, figure: float, most: float) -> Bar:
    """Return the bar of a figure that may not exceed a limit, on any device."""
    return Bar(f"{name} {figure:.3g} <= {most:g}", figure <= most)


def at_least(setting: Setting, name: str, figure: float, least: float) -> Bar:
    """Return the bar of a speed, which is judged on one kind of card alone."""
    met = figure >= least if setting.judges_speed else None
    return Bar(f"{name} {figure:.3g} >= {least:g}", met)


def holds(text: str, true: bool) -> Bar:
    """Return the bar of something that must be so on any device."""
    return Bar(text, bool(true))


def attempted(what: str, work: Callable[[], Row]) -> Row:
    """Return the row of some work, or one that says how it failed: the next work has its turn."""
    try:
        return work()
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_WORDS]
        return Row(what, {"error": told}, (Bar("runs", False),))
