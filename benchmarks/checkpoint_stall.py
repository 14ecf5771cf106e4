"""What a checkpoint costs training: the snapshot it waits for, against a save it would wait out.

One rank holds the model of ``make demo``, SmolLM2-135M upcycled, with AdamW's moments, and trains
on random tokens. A save is repeated in two ways, in turn: *synchronous*, where training waits until
weights and moments are copied, hashed, written and safe on the disk; and in the background, where
it waits for the copy alone and goes on. The files are the same.

Bar: the stall of a save in the background is at most a tenth of the time of a synchronous one. The
first save is held to it too: memory for the copy is made ready while training begins.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import torch

from actors.device import CpuDevice
from actors.state.saver import RankSaver
from benchmarks.results import finish, options, parse
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MOMENTS, OwnedState
from moe.config.ranges import whole_range
from moe.config.tensors import held_by
from moe.nn.build import build
from moe.nn.decoder import Pass
from moe.planning.plan.seats import Seat
from pipelines.study.solo import plan_alone

STALL_BAR = 0.1
SAVE_SECONDS = 600.0


class Training:
    """A model with its optimiser, one rank of one."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        checkpoint = Checkpoint.open(arguments.model)
        self.config = checkpoint.config
        self.decoder = build(self.config, checkpoint.read)
        for parameter in self.decoder.parameters():
            parameter.grad = torch.zeros_like(parameter)  # an expert may see no token
        self._adam = torch.optim.AdamW(self.decoder.parameters(), 1e-5, fused=True)
        self._size = (arguments.sequences, arguments.length)

    def step(self) -> float:
        """Take a step on random tokens; return its seconds."""
        started = time.perf_counter()
        tokens_BS = torch.randint(self.config.vocab_size, self._size)
        self._adam.zero_grad(set_to_none=False)
        hidden = self.decoder(tokens_BS, Pass(logits=False)).values
        torch.autograd.backward(self.decoder.loss(hidden, tokens_BS, 1.0 / tokens_BS.numel()))
        self._adam.step()
        return time.perf_counter() - started

    def states(self) -> Iterator[OwnedState]:
        """Yield the moments of every parameter."""
        parameters = dict(self.decoder.named_parameters())
        for part in held_by(self.config, self.decoder.share):
            state = self._adam.state[parameters[part.name]]
            own = {moment: state[moment].view(-1) for moment in MOMENTS}
            yield OwnedState(whole_range(part), own)


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    training = Training(arguments)
    training.step()
    plan = plan_alone(training.config, arguments.threads)
    saver = RankSaver(training.config, plan, Seat(0, 0, 0), None, CpuDevice().buffers())
    saver.prepare(dict(training.decoder.named_parameters()), training.states())
    alone = [training.step() for _ in range(arguments.repeats + 1)][1:]
    seconds: dict[str, list[float]] = {"synchronous": [], "stall": [], "during": []}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        first, _, size = _background(training, saver, Path(folder) / "first")
        for number in range(arguments.repeats):
            seconds["synchronous"].append(_synchronous(training, saver, Path(folder) / "own"))
            stall, during, _ = _background(training, saver, Path(folder) / f"{number}")
            seconds["stall"].append(stall)
            seconds["during"] += during
    middle = {name: median(found) for name, found in seconds.items() if found}
    save, step = middle["synchronous"], median(alone)
    stalls = {"stall, first save": first, "stall, later saves": middle["stall"]}
    steps = {"training step": step, "training step during a save": middle["during"]}
    rows = [
        {"what": what, "seconds": own, "of a save": own / save, "of a step": own / step}
        for what, own in ({"synchronous save": save} | stalls | steps).items()
    ]
    missed = [
        f"{what}: {own / save:.2f} of a synchronous save, bar {STALL_BAR}"
        for what, own in stalls.items()
        if own > STALL_BAR * save
    ]
    tokens = arguments.sequences * arguments.length
    title = (
        f"Checkpoints of {size / 1e9:.1f} GB, steps of {tokens} tokens, {arguments.threads} threads"
    )
    finish(arguments, title, rows, missed)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__ or "")
    parser.add_argument("--directory", type=Path, help="disk to write to; default that of /tmp")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sequences", type=int, default=4, help="of a step")
    parser.add_argument("--length", type=int, default=256, help="of a sequence")
    return parse(parser, repeats=1, threads=1, sequences=1, length=16)


def _synchronous(training: Training, saver: RankSaver, to: Path) -> float:
    """Return the seconds of a save that training waits for."""
    to.mkdir()
    weights = dict(training.decoder.named_parameters())
    started = time.perf_counter()
    saver.take(0, weights, training.states(), {}, SAVE_SECONDS)
    saver.write(to, 0, SAVE_SECONDS)
    took = time.perf_counter() - started
    shutil.rmtree(to)
    return took


def _background(training: Training, saver: RankSaver, to: Path) -> tuple[float, list[float], int]:
    """Return the stall of a save, the seconds of the steps during it, and its bytes."""
    to.mkdir()
    weights = dict(training.decoder.named_parameters())
    started = time.perf_counter()
    saver.take(0, weights, training.states(), {}, SAVE_SECONDS)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(saver.write, to, 0, SAVE_SECONDS)
        stall = time.perf_counter() - started
        steps = [training.step()]
        while not writing.done():
            steps.append(training.step())
        writing.result()
    size = sum(file.stat().st_size for file in to.rglob("*.safetensors"))
    shutil.rmtree(to)
    return stall, steps, size


if __name__ == "__main__":
    main()
