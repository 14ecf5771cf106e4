"""The options of a compression, and the architecture that results."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.quantised import form_named
from moe.errors import ConfigError
from moe.surgery.shrink.fold import Reduction
from moe.surgery.shrink.method import ShrinkMethod

PROBE_TOKENS = 64
"""Tokens on which the logits of both models are compared."""


@dataclass(frozen=True, slots=True)
class CompressOptions:
    """``method`` brings every layer down to so many ``experts``; both None leaves them alone.

    ``form`` is one of ``moe.config.quantised.FORMS``; None leaves matrices as they are. ``seed`` is
    that of what is drawn at random.
    """

    experts: int | None = None
    method: ShrinkMethod | None = None
    form: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method is not None and self.experts is None:
            raise ConfigError(
                f"the method {self.method.name} has no number of experts; give --experts"
            )
        if self.method is None and self.experts is not None:
            raise ConfigError(
                f"{self.experts} experts are asked for, and no method chooses them; give --method"
            )

    @property
    def measures(self) -> bool:
        """Whether text must be given."""
        return self.method is not None and self.method.measures

    def record(self) -> dict[str, Any]:
        """Return the options of the method in the form of a receipt."""
        found: dict[str, Any] | None = asdict(self)["method"]
        return found or {}


def compressed_config(config: ModelConfig, options: CompressOptions) -> ModelConfig:
    """Return the architecture after a compression; ConfigError where there is none."""
    if options.form is not None:
        form_named(options.form, config)
    if options.experts is None:
        return config
    if config.moe is None:
        raise ConfigError(
            f"the source is a dense {config.family} model, which has no experts to prune or merge"
        )
    Reduction(config.moe, options.experts)
    smaller = replace(config, moe=replace(config.moe, experts=options.experts))
    write_config(smaller, "float32")
    return smaller
