"""The options of a mixture of dense models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from moe.config.model import ModelConfig
from moe.errors import ConfigError
from moe.surgery.options import UpcycleOptions

MixRouter = Literal["normal", "zero", "prompts"]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts of one expert as token numbers, and the file that they came from."""

    source: str
    tokens: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class MixOptions:
    """``upcycle`` has what a mixture has in common with a copy of one model: top-k, scores, the
    format; its ``experts`` is the number of models.

    The trunk (attention, norms, embeddings, layers that stay dense) is that of ``base``, by default
    the first model, or with ``average`` the mean of all models. ``prompts``, one entry for each
    model, make the rows of the routers; without, ``upcycle.router`` does.
    """

    upcycle: UpcycleOptions
    base: Path | None = None
    average: bool = False
    prompts: Sequence[Prompts] = ()

    def __post_init__(self) -> None:
        if self.average and self.base is not None:
            raise ConfigError(
                f"base is {self.base} and average is asked for too: the trunk is either of one "
                "model or the mean of all; remove one"
            )
        if self.prompts and len(self.prompts) != self.upcycle.experts:
            raise ConfigError(
                f"{len(self.prompts)} files of prompts for {self.upcycle.experts} models; give "
                "one file for each model, in their order"
            )

    @property
    def router(self) -> MixRouter:
        """How the routers begin."""
        return "prompts" if self.prompts else self._router

    def record(self, config: ModelConfig) -> dict[str, Any]:
        """Return the options in the form of a receipt."""
        table = self.upcycle.record(config) | {"router": self.router, "average": self.average}
        table["base"] = None if self.base is None else self.base.resolve().name
        table["prompts"] = [each.source for each in self.prompts]
        return table

    @property
    def _router(self) -> MixRouter:
        router = self.upcycle.router
        assert router in get_args(MixRouter)
        return router  # type: ignore[return-value]  # the method copy has no other
