"""Batch, optimiser and learning rate of a run."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from moe.config.run.lora import LoraSection
from moe.config.run.orthogonal import OrthogonalSection
from moe.config.section import LocalPath, Section
from moe.config.tuning import Tuning

Schedule = Literal["gpipe", "1f1b", "interleaved-1f1b", "zero-bubble", "zbv"]
"""The names in ``moe.planning.schedules.schedule.SCHEDULES``, which describes each schedule."""

Patterns = Annotated[tuple[str, ...], Field(strict=False)]


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
    schedule: Schedule = "1f1b"
    """The order of micro-batches on the stages; it never changes the results."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` has weights and products in bfloat16, and float32 masters beside the moments. A run
    may be resumed in the other precision.
    """
    orthogonal: OrthogonalSection | None = None
    """Updates of experts orthogonal to what other experts are given; None: plain AdamW."""
    freeze: Patterns = ()
    """Patterns (``*``, ``?``) of the names of tensors that do not change."""
    lora: LoraSection | None = None
    """Train low-rank factors beside the model, which does not change; None: train the model."""
    deterministic: bool = False
    """A GPU computes the same bits each time, more slowly; a CPU does anyway."""
    engine: Literal["raymoe", "deepspeed"] = "raymoe"
    """Who trains: the actors of a plan, or DeepSpeed in workers that each have the whole model
    (``docs/guide/deepspeed.md``). The first may continue what the second has begun.
    """
    deepspeed_config: LocalPath | None = None
    """The JSON file of DeepSpeed, for that engine."""

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches in one step."""
        return self.global_batch // self.micro_batch

    @property
    def tuning(self) -> Tuning | None:
        """What of the model the run trains; None: all of it."""
        if self.lora is not None:
            return Tuning(lora=self.lora.lora)
        return Tuning(freeze=self.freeze) if self.freeze else None

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> "TrainSection":
        if self.lora is not None and self.freeze:
            raise ValueError("lora freezes the whole model, so freeze has no effect; remove it")
        if self.tuning is not None and self.engine == "deepspeed":
            raise ValueError(
                'engine = "deepspeed" trains whole models; remove lora and freeze, or set engine = '
                '"raymoe"'
            )
        if self.tuning is not None and self.orthogonal is not None:
            raise ValueError(
                "orthogonal projects the updates of whole experts, which freeze and lora take from "
                "it; remove one"
            )
        return self

    @model_validator(mode="after")
    def _config_of_deepspeed(self) -> "TrainSection":
        by_deepspeed = self.engine == "deepspeed"
        if by_deepspeed and self.deepspeed_config is None:
            raise ValueError(
                'engine = "deepspeed" takes deepspeed_config, a JSON file with zero_optimization '
                "at least; give its path"
            )
        if not by_deepspeed and self.deepspeed_config is not None:
            raise ValueError(
                'deepspeed_config has no effect with engine = "raymoe"; remove it, or set engine = '
                '"deepspeed"'
            )
        return self

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
