"""Orthogonal updates of experts beside plain AdamW: similarity of experts, held-out loss, seconds.

A small model is upcycled, so that its experts are equal at first, and trained on bytes of the
standard library, each time with the same tokens in the same order. It has no bar.
"""

import argparse
import time
from itertools import islice
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from actors.state.sources import ModelSource
from benchmarks.material import byte_tokenizer
from benchmarks.results import finish, options, parse
from benchmarks.solo import FILES, LENGTH, SMALL, THREADS, held_out, solo_run, write_tokens
from moe.surgery.initialise import initialise
from moe.surgery.options import UpcycleOptions
from moe.surgery.upcycle import upcycle
from pipelines.corpus.shards import TokenShards
from pipelines.study.solo import Solo
from pipelines.training.batches import batches

WAYS: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "orthogonal, 4 and 4 steps": {"orthogonal": {"accumulate": 4, "project": 4}},
    "orthogonal, 4 and 12 steps": {"orthogonal": {"accumulate": 4, "project": 12}},
}


def main() -> None:
    """Train each way and compare."""
    parser = options(__doc__ or "", material=False)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--files", type=int, default=FILES, help="modules of the library")
    arguments = parse(parser, steps=6, files=5)
    with TemporaryDirectory() as name:
        folder = Path(name)
        initialise(SMALL, folder / "dense", seed=0)
        byte_tokenizer().save(str(folder / "dense" / "tokenizer.json"))
        write_tokens(folder / "dense", folder / "tokens", arguments.files)
        upcycle(folder / "dense", folder / "moe", UpcycleOptions(experts=4, top_k=2))
        rows = [_row(arguments, folder, number, way) for number, way in enumerate(WAYS)]
    finish(arguments, f"An upcycled model after {arguments.steps} steps", rows, [])


def _row(arguments: argparse.Namespace, folder: Path, number: int, way: str) -> dict[str, Any]:
    model = folder / "moe"
    run = solo_run(model, folder / "tokens", arguments.steps, **WAYS[way])
    solo = Solo(run, ModelSource(model), LENGTH, THREADS)
    shards = TokenShards.open(run.data.path, "train")
    started = time.perf_counter()
    for batch in islice(batches(run, shards, 0), arguments.steps):
        solo.step(batch)
    seconds = time.perf_counter() - started
    solo.save(folder / f"trained{number}", arguments.steps)
    solo.close()
    found = held_out(folder / f"trained{number}", run)
    return {
        "what": way,
        "similarity of experts": mean(layer.similarity for layer in found.layers.values()),
        "held-out loss": found.loss,
        "training s": seconds,
    }


if __name__ == "__main__":
    main()
