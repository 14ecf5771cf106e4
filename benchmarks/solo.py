"""A small model that one rank of this process trains on bytes of the standard library."""

import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.material import CONFIG
from moe.config.run import RunConfig, parse_run
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.models.evaluate import EvaluateOptions, Evaluation, evaluate

LENGTH, FILES, THREADS = 128, 200, 2
SMALL = replace(
    CONFIG,
    hidden_size=64,
    heads=4,
    head_size=16,
    layers=2,
    ffn_size=96,
    initializer_range=0.02,
)


def write_tokens(model: Path, to: Path, files: int) -> None:
    """Tokenize so many modules of the standard library of the Python that runs this."""
    text = to.with_name(f"{to.name}-text")
    text.mkdir()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:files]:
        (text / f"{path.stem}.txt").write_bytes(path.read_bytes())
    tokenize([text], model, to, TokenizeOptions(LENGTH, held_out_fraction=0.1))


def solo_run(model: Path, data: Path, steps: int, **train: Any) -> RunConfig:
    """Return a run of 8 sequences a step; ``train`` are keys of its section beside the usual."""
    usual = {"steps": steps, "global_batch": 8, "micro_batch": 8, "learning_rate": 3e-3}
    usual |= {"min_learning_rate": 3e-4, "warmup_steps": min(20, steps // 2), "beta2": 0.95}
    table: dict[str, Any] = {
        "name": "solo",
        "model": {"path": str(model)},
        "data": {"path": str(data)},
        "train": usual | train,
        "checkpoint": {"path": "unused"},
        "elastic": {"copy_every": 0, "orphan_seconds": 0},
        "balance": {"coefficient": {"type": "fixed", "value": 0.01}},
    }
    return parse_run(table, "the benchmark")


def held_out(model: Path, run: RunConfig) -> Evaluation:
    """Return the loss of 64 held-out sequences, and the health of the routers."""
    return evaluate(model, run.data.path, EvaluateOptions(rows=64, batch=16))
