"""DeepSpeed's own converter, run as a process, for checkpoints that only DeepSpeed can read.

``engine.save_checkpoint`` cuts a checkpoint over ranks and pickles it with classes of DeepSpeed, so
opening it can run code. Only the user can decide whether that is safe.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from moe.errors import CheckpointError, ConfigError

LATEST = "latest"
_STATES = "*_optim_states.pt"


def zero_directory(path: Path) -> Path | None:
    """Return the directory with the ZeRO shards if a path is such a checkpoint, else None."""
    if any(path.glob(_STATES)):
        return path
    latest = path / LATEST
    if not latest.is_file():
        return None
    tag = path / latest.read_text(encoding="utf-8").strip()
    return tag if any(tag.glob(_STATES)) else None


def check_convertible(shards: Path, trust: bool) -> None:
    """Raise ConfigError unless DeepSpeed is installed and the user trusts the pickles."""
    if not trust:
        raise ConfigError(
            f"{shards} was written by engine.save_checkpoint of DeepSpeed: pickles that can run "
            "code when opened. If you trust them, --trust lets DeepSpeed's ds_to_universal read "
            "them; or run that elsewhere and give its result"
        )
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"{shards} can be read by DeepSpeed alone, which is not installed; install the extra "
            "raymoe[deepspeed], or run python -m deepspeed.checkpoint.ds_to_universal where the "
            "checkpoint was made and give its result"
        )


def to_universal(shards: Path, to: Path) -> Path:
    """Convert a directory of ZeRO shards with DeepSpeed; return the universal checkpoint."""
    tag = to / f"{shards.name}_universal"
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(shards), "--output_folder", str(tag)]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"]
    result = subprocess.run(
        command,
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise CheckpointError(
            f"ds_to_universal could not convert {shards}: "
            f"{lines[-1] if lines else f'it ended with {result.returncode}'}"
        )
    return tag
