"""A configuration file of DeepSpeed beside a run file: what each decides, and where they agree.

The run file decides on batches, optimiser, learning rate and clipping; the file of DeepSpeed may
say the same, say ``auto``, or say nothing. It decides on ZeRO and on what is logged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from moe.config.json_file import read_json
from moe.config.run import RunConfig
from moe.errors import ConfigError

AUTO = "auto"
STAGES = (1, 2, 3)
PASSED_ON = frozenset(
    {
        "comms_logger",
        "communication_data_type",
        "csv_monitor",
        "dump_state",
        "flops_profiler",
        "gradient_predivide_factor",
        "memory_breakdown",
        "prescale_gradients",
        "steps_per_print",
        "tensorboard",
        "wall_clock_breakdown",
        "wandb",
    }
)
"""Keys that are DeepSpeed's own affair."""

DECIDED = frozenset(
    {
        "bf16",
        "fp16",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "optimizer",
        "scheduler",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    }
)
"""Keys that are looked at here."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration that DeepSpeed is given, and lines about what was decided elsewhere."""

    table: Mapping[str, Any]
    notes: tuple[str, ...]


def settings_of(run: RunConfig) -> Settings:
    """Read the configuration of a run; ConfigError names a key that is not taken, or contradicts
    the run file.
    """
    path = run.train.deepspeed_config
    assert path is not None
    if find_spec("deepspeed") is None:
        raise ConfigError(
            'train.engine = "deepspeed", and DeepSpeed is not installed; install raymoe[deepspeed]'
        )
    if not path.is_file():
        raise ConfigError(f"train.deepspeed_config is {path}, and there is no such file")
    given, file = read_json(path), str(path)
    _check_known(given, file)
    notes = [*_optimizer(given, run, file), *_scheduler(given, file)]
    _check_precision(given, file)
    train, workers = run.train, run.plan.replicas
    ours = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": train.micro_batches // workers,
        "gradient_clipping": train.clip_norm,
    }
    told = {
        "train_batch_size": "train.global_batch",
        "train_micro_batch_size_per_gpu": "train.micro_batch",
        "gradient_accumulation_steps": "global_batch / (micro_batch x plan.replicas)",
        "gradient_clipping": "train.clip_norm",
    }
    for key, value in ours.items():
        _agree(given.get(key, AUTO), value, f"{file}: {key}", told[key])
    passed = {key: value for key, value in given.items() if key in PASSED_ON and value != AUTO}
    table = (
        passed
        | ours
        | {
            "zero_optimization": _zero(given, file),
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
    )
    return Settings(table, tuple(notes))


def _check_known(given: Mapping[str, Any], file: str) -> None:
    if unknown := sorted(given.keys() - PASSED_ON - DECIDED):
        raise ConfigError(
            f"{file}: {', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} not taken with "
            "a run file; remove it. Taken are zero_optimization, what the run file says too "
            f"(batches, optimizer, gradient_clipping), and {', '.join(sorted(PASSED_ON))}"
        )


def _zero(given: Mapping[str, Any], file: str) -> dict[str, Any]:
    zero = given.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if not isinstance(zero, dict) or stage not in STAGES:
        raise ConfigError(
            f"{file}: zero_optimization.stage is {stage!r}; give 1, 2 or 3, or train with "
            'train.engine = "raymoe"'
        )
    for key in ("offload_optimizer", "offload_param"):
        device = (zero.get(key) or {}).get("device", "none")
        if device not in ("none", "cpu"):
            raise ConfigError(
                f"{file}: zero_optimization.{key}.device is {device!r}; it was tried with cpu "
                "alone: take that, or remove it"
            )
    return {key: value for key, value in zero.items() if value != AUTO}


def _check_precision(given: Mapping[str, Any], file: str) -> None:
    for key in ("fp16", "bf16"):
        asked = (given.get(key) or {}).get("enabled", False)
        if asked not in (False, AUTO):
            raise ConfigError(
                f"{file}: {key}.enabled is {asked!r}, but runs with DeepSpeed train in float32; "
                'set it to false, or train with train.engine = "raymoe" and train.precision = '
                '"bf16"'
            )


def _optimizer(given: Mapping[str, Any], run: RunConfig, file: str) -> list[str]:
    """Check that an optimiser is that of the run file."""
    asked = given.get("optimizer")
    if asked is None:
        return []
    if asked.get("type", AUTO).lower() not in ("adam", "adamw", AUTO):
        raise ConfigError(
            f"{file}: optimizer.type is {asked['type']}, but a run trains with AdamW; remove the "
            "optimizer"
        )
    train = run.train
    ours = {
        "lr": (train.learning_rate, "train.learning_rate"),
        "betas": ([train.beta1, train.beta2], "train.beta1 and beta2"),
        "eps": (train.epsilon, "train.epsilon"),
        "weight_decay": (train.weight_decay, "train.weight_decay"),
    }
    params = asked.get("params") or {}
    if unknown := sorted(params.keys() - ours.keys() - {"torch_adam", "adam_w_mode"}):
        raise ConfigError(f"{file}: optimizer.params.{unknown[0]} is not taken; remove it")
    for key, (value, told) in ours.items():
        _agree(params.get(key, AUTO), value, f"{file}: optimizer.params.{key}", told)
    return [f"the optimizer of {file} is torch's AdamW with the settings of [train]"]


def _scheduler(given: Mapping[str, Any], file: str) -> list[str]:
    """Refuse a learning rate of its own; one that is left open is that of the run file."""
    asked = given.get("scheduler")
    if asked is None:
        return []
    fixed = [key for key, value in (asked.get("params") or {}).items() if value != AUTO]
    if fixed:
        raise ConfigError(
            f"{file}: scheduler.params.{fixed[0]} decides on the learning rate, and so does "
            "[train] (learning_rate, min_learning_rate, warmup_steps); remove the scheduler"
        )
    return [f"the scheduler of {file} is not used: [train] decides on the learning rate"]


def _agree(theirs: Any, ours: Any, key: str, told: str) -> None:
    if theirs != AUTO and theirs != ours:
        raise ConfigError(
            f"{key} is {theirs!r}, but the run file has {told} = {ours!r}; make them agree, or "
            'write "auto"'
        )
