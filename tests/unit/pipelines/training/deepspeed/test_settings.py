"""What of a DeepSpeed configuration is passed on, and what is refused beside a run file."""

import json
from pathlib import Path
from typing import Any

import pytest

from moe.config.run import RunConfig
from moe.errors import ConfigError
from pipelines.training.deepspeed.settings import settings_of
from tests import runs

AUTO = "auto"
TRAINERS = {
    "fp16": {"enabled": AUTO, "loss_scale": 0},
    "bf16": {"enabled": AUTO},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": AUTO, "betas": AUTO, "eps": AUTO, "weight_decay": AUTO},
    },
    "scheduler": {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": AUTO, "warmup_max_lr": AUTO, "warmup_num_steps": AUTO},
    },
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "overlap_comm": True,
        "reduce_bucket_size": AUTO,
    },
    "gradient_accumulation_steps": AUTO,
    "gradient_clipping": AUTO,
    "steps_per_print": 2000,
    "train_batch_size": AUTO,
    "train_micro_batch_size_per_gpu": AUTO,
    "wall_clock_breakdown": False,
}
"""The file that transformers' documentation gives for ZeRO-3."""


def run(tmp_path: Path, table: Any, replicas: int = 2, **train: Any) -> RunConfig:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(table))
    asked = {"engine": "deepspeed", "deepspeed_config": str(file)} | train
    return runs.run_config(tmp_path, train=asked, plan={"replicas": replicas})


def test_what_is_left_open_comes_from_the_run_file(tmp_path: Path) -> None:
    found = settings_of(run(tmp_path, TRAINERS))
    assert found.table == {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5,
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
            "overlap_comm": True,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2000,
        "wall_clock_breakdown": False,
    }
    assert len(found.notes) == 2
    assert "torch's AdamW" in found.notes[0]
    assert "[train] decides on the learning rate" in found.notes[1]


ZERO = {"zero_optimization": {"stage": 2}}


def test_what_agrees_is_taken(tmp_path: Path) -> None:
    agreeing = {
        "train_batch_size": 8,
        "gradient_clipping": 0.5,
        "optimizer": {"type": "Adam", "params": {"lr": 3e-3, "betas": [0.9, 0.95]}},
    }
    found = settings_of(run(tmp_path, ZERO | agreeing))
    assert found.table["zero_optimization"] == {"stage": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_batch_size": 16}, r"train_batch_size is 16, .* train.global_batch = 8"),
        ({"gradient_accumulation_steps": 1}, r"gradient_accumulation_steps is 1"),
        ({"gradient_clipping": 1.0}, r"gradient_clipping is 1.0, .* train.clip_norm = 0.5"),
        ({"bf16": {"enabled": True}}, r"bf16.enabled is True, .* float32"),
        ({"fp16": {"enabled": True}}, r"fp16.enabled is True"),
        ({"optimizer": {"type": "Lamb"}}, r"optimizer.type is Lamb"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}, r"params.lr is 0.0001"),
        ({"optimizer": {"type": "AdamW", "params": {"amsgrad": True}}}, r"amsgrad is not taken"),
        ({"scheduler": {"params": {"warmup_num_steps": 5}}}, r"scheduler.params.warmup_num_steps"),
        ({"zero_optimization": {"stage": 0}}, r"zero_optimization.stage is 0"),
        ({"zero_optimization": None}, r"zero_optimization.stage is None"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            r"offload_param.device is 'nvme'",
        ),
        ({"elasticity": {"enabled": True}}, r"elasticity is not taken"),
        ({"pipeline": {}, "tensor_parallel": {}}, r"pipeline, tensor_parallel are not taken"),
    ],
)
def test_what_contradicts_or_is_not_taken_is_refused_by_name(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    asked = run(tmp_path, ZERO | changes)
    with pytest.raises(ConfigError, match=said):
        settings_of(asked)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    asked = run(tmp_path, ZERO)
    (tmp_path / "ds.json").unlink()
    with pytest.raises(ConfigError, match=r"ds.json, and there is no such file"):
        settings_of(asked)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"plan": {"stages": 2}}, "plan.stages above 1"),
        ({"plan": {"gang": 2}}, "plan.gang above 1"),
        ({"plan": {"path": "plan.toml"}}, "plan.path"),
        ({"plan": {"replicas": 2, "least_replicas": 1}}, "plan.least_replicas"),
        ({"train": {"precision": "bf16"}}, "train.precision"),
        ({"elastic": {"copy_every": 5}}, r"\[elastic\]"),
        ({"elastic": {"follow_nodes": True}}, r"\[elastic\]"),
        ({"cluster": {"max_failures": 5}}, "cluster.max_failures"),
        ({"cluster": {"group_seconds": 5.0}}, "cluster.group_seconds"),
        ({"monitor": {"every": 5}}, "monitor.every"),
        ({"balance": {"loss": "skywork", "coefficient": {"type": "bias"}}}, "balance.coefficient"),
        ({"plan": {"replicas": 3}}, "not a multiple of micro_batch x plan.replicas = 6"),
        ({"train": {"deepspeed_config": None}}, "takes deepspeed_config"),
        ({"train": {"engine": "raymoe"}}, "deepspeed_config has no effect"),
    ],
)
def test_a_run_file_that_asks_for_more_is_refused(
    sections: dict[str, dict[str, Any]], said: str, tmp_path: Path
) -> None:
    train = {"engine": "deepspeed", "deepspeed_config": "ds.json"} | sections.pop("train", {})
    train = {key: value for key, value in train.items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        runs.run_config(tmp_path, train=train, **sections)
