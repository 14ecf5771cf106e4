"""Servers side by side under the same loads: ours by type of weights, and peers.

The model is the demo's dense model with four noisy experts a layer (374 M parameters, 214 M
active), answers are greedy streams, prompts are random words that no server has seen. Servers are
started one after the other, each in a process of its own, and asked over HTTP by the load generator
of ``raymoe bench serve``. Seconds, and medians over the repeats:

    one      one stream of 64 + 64 tokens: its first token, and its pace from there on
    many     16 such streams together, from the first request to the last token; and tokens by the
             seconds of processors that the server took, which other work beside it changes less
    shared   8 prompts of 400 tokens that arrive together, the first 256 in common; 16 tokens each
    long     one prompt of 1,500 tokens
    beside   gaps between the tokens of 4 streams while such a prompt is read, and before (quiet)

``make peers`` installs the peers, ``--peers .`` measures them in the same run; the bars against
them need that.
"""

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.peers import llama, transformers_serve, vllm
from benchmarks.processors import described
from benchmarks.results import DEMO, finish, options, parse
from benchmarks.server_process import Start, started
from benchmarks.serving_loads import (
    BESIDE_RATIO,
    LONG,
    MANY,
    MANY_FIRST,
    ONE,
    SHARED_FIRST,
    SMALLEST,
    Loads,
    Sizes,
)
from benchmarks.serving_model import serving_model, small_serving_model
from moe.errors import RaymoeError
from pipelines.loading.load import Load
from pipelines.loading.prompt import Prompt
from pipelines.loading.running import run
from pipelines.loading.target import Target
from pipelines.loading.tokenizer import LoadTokenizer

OURS = "raymoe"
WEIGHTS = ("fp32", "fp16", "int8")
SEED = 17

AT_LEAST: Mapping[str, Mapping[str, float]] = {
    MANY: {"fp32": 48.0, "fp16": 70.0, "int8": 100.0},
    ONE: {"fp32": 12.0, "fp16": 22.0, "int8": 35.0},
    LONG: {"fp32": 180.0, "int8": 300.0},
}
"""By figure and weights: what ours must reach on any processor."""

AT_MOST = {MANY_FIRST: 5.2, SHARED_FIRST: 7.7, BESIDE_RATIO: 3.0}
"""By figure: what ours must stay under, whatever the weights."""

Q8 = f"{llama.ENGINE} q8_0"
OF_PEERS = (
    (MANY, "fp32", f"{vllm.ENGINE} fp32", 1.0),
    (MANY, "int8", Q8, 1.0),
    (ONE, "int8", Q8, 0.8),
)
"""The share of a peer's figure that ours must reach."""

Figures = Mapping[str, float]


def main() -> None:
    """Measure every server and print."""
    arguments = _arguments()
    if arguments.smallest:
        with TemporaryDirectory() as folder:
            _measure(arguments, small_serving_model(Path(folder)), SMALLEST)
    else:
        _measure(arguments, serving_model(arguments.dense), Sizes())


def _measure(arguments: argparse.Namespace, model: Path, sizes: Sizes) -> None:
    found: dict[str, Figures] = {}
    broken = []
    for start in _starts(arguments, model, sizes):
        print(f"{start.name} ...", file=sys.stderr, flush=True)
        try:
            found[start.name] = _measured(start, model, sizes, arguments.repeats)
        except RaymoeError as error:
            broken.append(f"{start.name} was not measured: {error}")
    if not found:
        sys.exit("\n".join(broken))
    rows = [{"what": name, **figures} for name, figures in found.items()]
    title = f"Servers, {sizes.streams} streams at most, medians of {arguments.repeats}; "
    finish(arguments, title + described(), rows, [*broken, *missed_bars(found)], digits=3)


def missed_bars(found: Mapping[str, Figures]) -> list[str]:
    """Return the bars that ours missed, among those that can be judged."""
    missed = []
    for weights in WEIGHTS:
        figures = found.get(f"{OURS} {weights}")
        if figures is not None:
            missed += [f"{OURS} {weights}, {line}" for line in _missed(figures, weights, found)]
    return missed


def _missed(figures: Figures, weights: str, found: Mapping[str, Figures]) -> list[str]:
    missed = []
    for name, bars in AT_LEAST.items():
        if weights in bars and figures[name] < bars[weights]:
            missed.append(f"{name}: {figures[name]:.3g}, bar at least {bars[weights]:g}")
    for name, bar in AT_MOST.items():
        if figures[name] > bar:
            missed.append(f"{name}: {figures[name]:.3g}, bar at most {bar:g}")
    for name, ours, peer, share in OF_PEERS:
        if ours == weights and peer in found and figures[name] < share * found[peer][name]:
            times = figures[name] / found[peer][name]
            missed.append(f"{name}: {times:.2f} x {peer}, bar {share:g} x")
    return missed


def _starts(arguments: argparse.Namespace, model: Path, sizes: Sizes) -> list[Start]:
    starts = _ours(model, arguments.weights)
    if arguments.peers is not None:
        folder: Path = arguments.peers
        starts += vllm.starts(folder, model, sizes.longest)
        starts += llama.starts(folder, model, sizes.streams, sizes.longest)
        starts += transformers_serve.starts(folder, model)
    return starts


def _ours(model: Path, weights: Sequence[str]) -> list[Start]:
    """Return how ours is started for each type of weights that it knows."""
    command = [sys.executable, "-m", "pipelines.cli", "serve"]
    wide = os.environ | {"COLUMNS": "200"}
    shown = subprocess.run([*command, "--help"], env=wide, capture_output=True, text=True).stdout
    chooses = "--weights" in shown

    def start(kind: str) -> Start:
        words = [*command, str(model), *(["--weights", kind] if chooses else [])]
        return Start(
            engine=OURS,
            weights=kind,
            command=lambda port: [*words, "--port", str(port)],
            model=model.name,
        )

    return [start(kind) for kind in weights if chooses or kind == "fp32"]


def _measured(start: Start, model: Path, sizes: Sizes, repeats: int) -> Figures:
    """Return the medians of one server."""
    with started(start) as server:
        target = _taken(Target(server.url, start.model, ignore_eos=True))
        loads = Loads(target, LoadTokenizer(model), sizes, SEED, server.processor_seconds)
        loads.warm()
        each = [loads.measure() for _ in range(repeats)]
    return {name: median(figures[name] for figures in each) for name in each[0]}


def _taken(target: Target) -> Target:
    """Return the target, without ``ignore_eos`` where the server refuses that."""
    prompt = [Prompt(text="once upon a time")]
    (answer,) = asyncio.run(run(replace(target, max_tokens=2), Load(1, 1), prompt))
    refused = answer.failure is not None and answer.failure.status in (400, 422)
    return replace(target, ignore_eos=False) if refused else target


def _arguments() -> argparse.Namespace:
    parser = options(__doc__ or "", material=False)
    parser.add_argument("--dense", type=Path, default=DEMO / "dense")
    parser.add_argument(
        "--weights", nargs="*", choices=WEIGHTS, default=WEIGHTS, help="of ours; none: only peers"
    )
    parser.add_argument("--peers", type=Path, help="where `make peers` has installed them")
    parser.add_argument("--repeats", type=int, default=3)
    return parse(parser, repeats=1, weights=["fp32"])


if __name__ == "__main__":
    main()
