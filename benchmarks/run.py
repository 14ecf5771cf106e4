"""The run that benchmarks train: a constant learning rate, no balance loss, nothing saved."""

from pathlib import Path

from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig, parse_run


def bench_run(model: Path, data: Path, **train: int) -> RunConfig:
    """Return a run of a model on tokens; ``train`` has steps, global_batch and micro_batch."""
    table = {
        "name": "bench",
        "model": {"path": str(model)},
        "data": {"path": str(data)},
        "train": {
            "learning_rate": 1e-5,
            "min_learning_rate": 1e-5,
            "weight_decay": 0.0,
            "beta2": 0.999,
            **train,
        },
        "checkpoint": {"path": "unused"},
    }
    if Checkpoint.open(model).config.moe is not None:
        table["balance"] = {"coefficient": {"type": "fixed", "value": 0.0}}
    return parse_run(table, "the benchmark")
