"""``[train.lora]``: low-rank factors beside chosen weights, which are all that a run trains."""

from typing import Annotated

from pydantic import Field, field_validator

from moe.config.section import LocalPath, Section
from moe.config.tuning import Lora, LoraTarget

Targets = Annotated[tuple[LoraTarget, ...], Field(strict=False, min_length=1)]

_MEMBERS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "feed_forward": ("gate_proj", "up_proj", "down_proj"),
}


class LoraSection(Section):
    """Sizes of the factors, and what they begin from; see ``moe.config.tuning``."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    """What the factors give is multiplied by alpha / rank."""
    targets: Targets = ("attention",)
    """``attention`` or some of ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj``; ``feed_forward``
    (dense, and of shared experts) or some of ``gate_proj``, ``up_proj``, ``down_proj``;
    ``experts``; ``router``.
    """
    rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead."""
    start: LocalPath | None = None
    """The directory of an adapter in peft's format to begin from; None: A random, B zero."""
    seed: int = 0
    """Seed of the random A; has no effect with ``start``."""

    @field_validator("targets")
    @classmethod
    def _each_once(cls, targets: tuple[LoraTarget, ...]) -> tuple[LoraTarget, ...]:
        parts = {group: set(own) for group, own in _MEMBERS.items() if group in targets}
        twice = any(own & set(targets) for own in parts.values())
        if twice or len(set(targets)) < len(targets):
            raise ValueError(f"{list(targets)} names a target twice; name each once")
        return targets

    @property
    def lora(self) -> Lora:
        """The factors as the table of tensors has them."""
        return Lora(self.rank, self.alpha, tuple(sorted(self.targets)), self.rslora)
