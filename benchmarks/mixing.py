"""Dense models mixed into one, beside mergekit-moe on the same inputs: seconds, memory, weights.

The inputs are copies of one dense model with noise of their own. Both are commands: their seconds
include the start of Python, their memory is the most anonymous memory. With ``--mergekit``, every
tensor but the routers, which both draw at random, must be equal to the bit. Bars: that, and no more
time and memory than mergekit.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.results import DEMO, finish, options, parse
from benchmarks.upcycle import anonymous_bytes
from moe.checkpoint.reader import Checkpoint
from moe.config.tensors import tensors

NOISE = 1e-2


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "", material=False)
    parser.add_argument("--model", type=Path, default=DEMO / "dense", help="dense model")
    parser.add_argument("--directory", type=Path, help="disk to write to; default that of /tmp")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mergekit", type=Path, help="mergekit-moe, in its own environment")
    arguments = parse(parser, repeats=1)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as temporary:
        folder = Path(temporary)
        models = [
            _noisy(arguments.model, folder / f"dense{n}", n) for n in range(arguments.experts)
        ]
        commands = {"raymoe": _ours(models, folder)}
        if arguments.mergekit:
            commands["mergekit-moe"] = _theirs(arguments, models, folder)
        rows, missed = [], list[str]()
        for name, command in commands.items():
            turns = range(arguments.repeats)
            rows.append(_row(name, [_measured(command, folder / name) for _ in turns]))
        if arguments.mergekit:
            missed = _missed(rows, _unequal(*(folder / name for name in commands)))
    title = f"{arguments.experts} models of {arguments.model} mixed"
    finish(arguments, title, rows, missed)


def _noisy(source: Path, to: Path, seed: int) -> Path:
    """Copy a model with noise on every matrix, file by file."""
    shutil.copytree(source.resolve(), to)
    noise = torch.Generator().manual_seed(seed)
    for file in to.glob("*.safetensors"):
        table = load_file(file)
        for name, value in table.items():
            if value.dim() > 1:
                drawn = torch.randn(value.shape, generator=noise)
                table[name] = (value + NOISE * value.float().std() * drawn).to(value.dtype)
        save_file(table, file, {"format": "pt"})
    return to


def _ours(models: list[Path], folder: Path) -> list[str | Path]:
    call: list[str | Path] = [sys.executable, "-m", "pipelines.cli", "upcycle", *models]
    return [*call, "--method", "mix", "--to", folder / "raymoe"]


def _theirs(arguments: argparse.Namespace, models: list[Path], folder: Path) -> list[str | Path]:
    config = folder / "mergekit.yaml"
    lines = [f"base_model: {models[0]}", "gate_mode: random", "architecture: mixtral"]
    lines += [f"dtype: {str(Checkpoint.open(models[0]).dtype).removeprefix('torch.')}", "experts:"]
    config.write_text("\n".join([*lines, *(f"  - source_model: {path}" for path in models), ""]))
    return [arguments.mergekit.absolute(), config, folder / "mergekit-moe"]


def _measured(command: list[str | Path], to: Path) -> tuple[float, int]:
    """Run a command that writes a directory; return its seconds, and its memory in bytes."""
    shutil.rmtree(to, ignore_errors=True)
    os.sync()  # what others wrote is not our time
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return time.perf_counter() - started, peak


def _row(what: str, found: list[tuple[float, int]]) -> dict[str, Any]:
    seconds, peaks = zip(*found, strict=True)
    return {"what": what, "seconds": median(seconds), "peak MB": max(peaks) / 1e6}


def _unequal(ours: Path, theirs: Path) -> list[str]:
    """Return the names of tensors that differ, but for the routers."""
    one, other = Checkpoint.open(ours), Checkpoint.open(theirs)
    pairs = zip(tensors(one.config), tensors(other.config), strict=True)
    return [
        mine.name
        for mine, yours in pairs
        if mine.role.part != "router" and not one.read(mine).equal(other.read(yours))
    ]


def _missed(rows: list[dict[str, Any]], unequal: list[str]) -> list[str]:
    ours, theirs = rows
    missed = [
        f"{key}: {ours[key]:.3g} > {theirs[key]:.3g}"
        for key in ("seconds", "peak MB")
        if ours[key] > theirs[key]
    ]
    if unequal:
        missed.append(f"{len(unequal)} tensors differ, the first is {unequal[0]}")
    return missed


if __name__ == "__main__":
    main()
