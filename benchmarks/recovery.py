"""How long a run does not train after a loss: healed, restored, and restarted by Ray Train.

A model is trained as two stages, each on a node of its own of a cluster on this machine, as
``raymoe train`` does it. Then, in turn: an actor is killed (SIGKILL), one hangs (SIGSTOP), a node
with one crashes, both are killed at once, so that the run restores its checkpoint; and the plan is
changed, so that a layer goes from one stage to the other. Beside it
Ray Train trains the same model in two workers with checkpoints of its own, of which one is killed.
*Seconds* are from the signal to the end of the next step, less those of a step undisturbed.

Bars: under 3 s where an actor is killed, and Ray Train's restart takes 5 times as long at least;
no rank that lives waits longer than 100 ms after a kill; a change of plan costs less than 5 s and
the time that its bytes take at the rate at which copies travel.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copy
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import ray

from benchmarks.hurt import HANG_SECONDS, RESIZED, WAYS, Hurt, Nodes, hurt
from benchmarks.processors import described
from benchmarks.restarted import restarted
from benchmarks.results import finish, options, parse
from cluster.session import NAMESPACE
from moe.checkpoint.reader import Checkpoint
from moe.surgery.initialise import initialise

KILLED_BAR, TIMES_BAR, WAIT_BAR, RESIZED_BAR = 3.0, 5.0, 0.1, 5.0
RAY_TRAIN = "ray train"
LABELS = {
    "killed": "an actor killed",
    "hung": f"an actor hung, hang_seconds {HANG_SECONDS:g}",
    "node": "a node crashed",
    "restored": "restored from the checkpoint",
    RESIZED: "resized: a layer to the other stage",
    RAY_TRAIN: "a worker killed, Ray Train restarts",
}
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
}
"""Ray Train looks after its workers as often for its own run as for ours."""
PHASES = ("seen", "process", "built", "moved", "joined", "copied", "restored")


def main() -> None:
    """Measure in a process of its own, which joins a cluster of its own; print."""
    arguments = _arguments()
    with TemporaryDirectory() as folder:
        model = _model(arguments, Path(folder))
        words = [str(model), str(arguments.data.absolute()), folder, str(arguments.sequences)]
        words += [str(arguments.repeats), *arguments.ways]
        environment = os.environ | ENVIRONMENT
        for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
            environment.pop(name, None)
        code = "import sys; from benchmarks.recovery import measure; measure(sys.argv[1:])"
        subprocess.run([sys.executable, "-c", code, *words], env=environment, check=True)
        found = [Hurt(**each) for each in json.loads((Path(folder) / "found.json").read_text())]
        config = Checkpoint.open(model).config
    _finish(arguments, found, config.layers)


def measure(words: Sequence[str]) -> None:
    """Hurt what was asked for on a cluster of this process; write what was found."""
    model, data, folder = map(Path, words[:3])
    sequences, repeats, ways = int(words[3]), int(words[4]), words[5:]
    nodes = Nodes()
    ray.init(nodes.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    try:
        ours = [way for _ in range(repeats) for way in ways if way in WAYS]
        found = hurt(model, data, folder, sequences, ours, nodes) if ours else []
        if RAY_TRAIN in ways:
            found += restarted(model, data, folder, sequences, repeats)
    finally:
        ray.shutdown()
        nodes.close()
    (folder / "found.json").write_text(json.dumps([asdict(each) for each in found]))


def _model(arguments: argparse.Namespace, folder: Path) -> Path:
    """Return the model, or one like it with fewer layers and random weights."""
    given: Path = arguments.model.absolute()
    config = Checkpoint.open(given).config
    if arguments.layers >= config.layers:
        return given
    made = folder / "model"
    initialise(replace(config, layers=arguments.layers), made, seed=0)
    for file in given.glob("tokenizer*"):
        copy(file, made)
    return made


def _finish(arguments: argparse.Namespace, found: Sequence[Hurt], layers: int) -> None:
    by_way = {way: [each for each in found if each.way == way] for way in LABELS}
    rows = [_row(way, own) for way, own in by_way.items() if own]
    middle = {way: median(each.seconds for each in own) for way, own in by_way.items() if own}
    missed = _missed(middle, max(by_way["killed"], key=_longest, default=None))
    missed += _slow(by_way[RESIZED])
    title = (
        f"Seconds without training after a loss, {layers} layers of the model, two ranks of one "
        f"thread, median of {arguments.repeats}; {described()}"
    )
    finish(arguments, title, rows, missed, digits=3)


def _row(way: str, found: Sequence[Hurt]) -> dict[str, Any]:
    """Return the medians of one way to be hurt; survivors' waits are the longest."""
    phases: Mapping[str, float | str] = {
        phase: median(each.phases[phase] for each in found) if phase in found[0].phases else ""
        for phase in PHASES
    }
    return {
        "what": LABELS[way],
        "seconds": median(each.seconds for each in found),
        "step s": median(each.step_seconds for each in found),
        "steps again": median(each.again for each in found),
        **phases,
        "MB moved": found[0].bytes / 1e6 or "",
        "survivor ms": 1e3 * max(map(_longest, found)) if any(e.waits for e in found) else "",
    }


def _missed(middle: Mapping[str, float], killed: Hurt | None) -> list[str]:
    missed = []
    if "killed" in middle and middle["killed"] >= KILLED_BAR:
        missed.append(f"an actor killed: {middle['killed']:.1f} s, bar {KILLED_BAR:g}")
    if {"killed", RAY_TRAIN} <= middle.keys():
        times = middle[RAY_TRAIN] / max(middle["killed"], 1e-9)
        if times < TIMES_BAR:
            missed.append(f"Ray Train's restart takes {times:.1f} times as long, bar {TIMES_BAR:g}")
    if killed is not None and _longest(killed) > WAIT_BAR:
        waited = 1e3 * _longest(killed)
        missed.append(f"a survivor waited {waited:.0f} ms after a kill, bar {1e3 * WAIT_BAR:g}")
    return missed


def _slow(resized: Sequence[Hurt]) -> list[str]:
    """Return which changes of plan cost more than their bar."""
    bars = [RESIZED_BAR + each.bytes / each.rate for each in resized]
    return [
        f"a change of plan took {each.seconds:.1f} s, bar {bar:.1f}"
        for each, bar in zip(resized, bars, strict=True)
        if each.seconds >= bar
    ]


def _longest(hurt: Hurt) -> float:
    return max(hurt.waits, default=0.0)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__ or "")
    parser.add_argument("--layers", type=int, default=8, help="of the model, at most all it has")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=2, help="of a step")
    every = [*WAYS, RAY_TRAIN]
    parser.add_argument("--ways", nargs="+", choices=every, default=every)
    return parse(parser, repeats=1, ways=["killed"])


if __name__ == "__main__":
    main()
