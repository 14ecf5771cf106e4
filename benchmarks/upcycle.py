"""Upcycling by copy against copying the same bytes, in time and in memory, and against mergekit.

A run reads the model, writes every expert, hashes all that is read and written, and compares the
logits of both models; a copy is ``shutil.copyfile`` and fsync of the shards that came out. Both
write to the same directory, in turn; medians. Bars: at least 0.7 of the speed of copying, and at
most 1.2 x the largest tensor + 300 MB of memory over the idle process.

Memory is anonymous memory (``RssAnon``), sampled in a process of its own from after its imports.
Pages of mapped safetensors count into the resident size too, but the kernel drops them whenever
anybody needs memory; only anonymous pages can run a machine out of it.
"""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.results import DEMO, finish, parse
from benchmarks.results import options as options_of
from moe.checkpoint.reader import Checkpoint
from moe.config.tensors import tensors
from moe.surgery.calibration import Calibration
from moe.surgery.options import UpcycleOptions
from moe.surgery.upcycle import upcycle

SPEED_BAR = 0.7
TENSOR_BAR = 1.2
SPARE_BYTES = 300e6
TOP_K = 2


class MemoryWatch(threading.Thread):
    """Samples the anonymous memory of this process; ``peak`` is in bytes over the beginning."""

    def __init__(self, seconds: float = 0.002) -> None:
        super().__init__(daemon=True)
        self._seconds = seconds
        self._begin = anonymous_bytes()
        if not self._begin:
            raise RuntimeError("/proc/self/status has no RssAnon; measure on Linux")
        self._over = threading.Event()
        self.peak = 0

    def run(self) -> None:
        """Sample until told to stop."""
        while not self._over.wait(self._seconds):
            self.peak = max(self.peak, anonymous_bytes() - self._begin)

    def stop(self) -> int:
        """Return the peak."""
        self._over.set()
        self.join()
        return self.peak


def anonymous_bytes(process: int | str = "self") -> int:
    """Return the anonymous memory of a process, in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def peak_bytes(
    source: Path, to: Path, options: UpcycleOptions, calibration: Calibration | None = None
) -> int:
    """Return the most anonymous memory that an upcycling takes, in a process of its own."""
    return watched_peak(upcycle, source, to, options, calibration=calibration)


def watched_peak(work: Callable[..., object], *arguments: Any, **options: Any) -> int:
    """Return the most anonymous memory that a call takes, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_watched, (work, arguments, options))


def _watched(
    work: Callable[..., object], arguments: tuple[Any, ...], options: dict[str, Any]
) -> int:
    torch.set_num_threads(1)
    watch = MemoryWatch()
    watch.start()
    work(*arguments, **options)
    return watch.stop()


def memory_bar(source: Path) -> float:
    """Return the bytes that an upcycling of a model may take over the idle process."""
    dense = Checkpoint.open(source)
    largest = max(t.elements * dense.dtype_of(t).itemsize for t in tensors(dense.config))
    return TENSOR_BAR * largest + SPARE_BYTES


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    rows, missed = [], []
    bar = memory_bar(arguments.model)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        for experts in arguments.experts:
            row = _measure(arguments, experts, Path(directory))
            rows.append(row)
            if row["speed / copy"] < SPEED_BAR:
                missed.append(f"{experts} experts: {row['speed / copy']:.2f} < {SPEED_BAR}")
            if row["peak MB"] > bar / 1e6:
                missed.append(f"{experts} experts: {row['peak MB']:.0f} MB > {bar / 1e6:.0f} MB")
    finish(arguments, f"Upcycling {arguments.model}, memory bar {bar / 1e6:.0f} MB", rows, missed)


def _arguments() -> argparse.Namespace:
    parser = options_of(__doc__ or "", material=False)
    parser.add_argument("--model", type=Path, default=DEMO / "dense", help="dense model")
    parser.add_argument("--directory", type=Path, help="disk to write to; default that of /tmp")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mergekit", type=Path, help="mergekit-moe, in its own environment")
    parser.add_argument("--experts", type=int, nargs="+", default=[4, 8])
    return parse(parser, repeats=1, experts=[4])


def _measure(arguments: argparse.Namespace, experts: int, directory: Path) -> dict[str, Any]:
    options = UpcycleOptions(experts, TOP_K)
    made, theirs = directory / "made", directory / "theirs"
    seconds: dict[str, list[float]] = {"ours": [], "copy": [], "mergekit": []}
    for _ in range(arguments.repeats):
        shutil.rmtree(made, ignore_errors=True)
        seconds["ours"].append(_timed(lambda: upcycle(arguments.model, made, options)))
        shards = sorted(made.glob("model-*.safetensors"))
        seconds["copy"].append(_timed(lambda shards=shards: _copy(shards, directory / "copy")))
        shutil.rmtree(directory / "copy")
        if arguments.mergekit:
            call = _mergekit(arguments, experts, directory, theirs)
            seconds["mergekit"].append(_timed(lambda call=call: subprocess.run(call, check=True)))
            shutil.rmtree(theirs)
    size = sum(path.stat().st_size for path in shards)
    shutil.rmtree(made)
    peak = peak_bytes(arguments.model, made, options)
    shutil.rmtree(made)
    middle = {name: median(taken) for name, taken in seconds.items() if taken}
    row = {"what": f"{experts} experts", "GB": size / 1e9, "upcycle s": middle["ours"]}
    row |= {"copy s": middle["copy"], "speed / copy": middle["copy"] / middle["ours"]}
    row["peak MB"] = peak / 1e6
    return row | ({"mergekit s": middle["mergekit"]} if "mergekit" in middle else {})


def _timed(call: Any) -> float:
    os.sync()  # what others wrote is not our time
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _copy(paths: Sequence[Path], to: Path) -> None:
    to.mkdir()
    for path in paths:
        shutil.copyfile(path, to / path.name)
        with (to / path.name).open("rb+") as file:
            os.fsync(file.fileno())


def _mergekit(
    arguments: argparse.Namespace, experts: int, directory: Path, to: Path
) -> list[str | Path]:
    """Return the command that makes the same Mixtral; ``random`` gates, as ours."""
    model = arguments.model.resolve()
    config = directory / "mergekit.yaml"
    lines = [f"base_model: {model}", "gate_mode: random", "dtype: float32", "architecture: mixtral"]
    lines += ["experts:"] + [f"  - source_model: {model}"] * experts
    config.write_text("\n".join(lines) + "\n")
    return [arguments.mergekit, config, to]


if __name__ == "__main__":
    main()
