"""A whole training step against transformers' model of the same directory, on the same batches.

`make demo` upcycles to a Skywork-MoE directory. Its model in transformers is Mixtral, whose
attention, experts and loop are transformers' own; the remote code that raymoe writes beside the
weights replaces the gate alone. So the peer computes the same losses, and all that takes its time
is transformers' code. ``--model`` may name a Mixtral directory, which needs no remote code.

Both models live in one process and take turns: forward, loss, backward, AdamW (fused). Of the
experts implementations of transformers that fit in memory the fastest is found first. Model FLOPs
are six per active parameter and token, the embedding's lookup left out, and causal attention;
utilisation is of the fastest float32 matrix product measured in the same run.

Bars: losses agree to 1e-4 relative at every step. By the kind of processor, which the title names:
with AVX-512 1.5 x the tokens per second of transformers and 60 % of the fastest product, with AVX2
1.2 x and 65 %, on others 1.4 x.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.flops import training_flops
from benchmarks.processors import described
from benchmarks.results import finish, options, parse
from moe.checkpoint.reader import Checkpoint
from moe.config.products import LIBRARIES
from moe.nn import openblas
from moe.nn.build import build
from moe.nn.decoder import Pass
from moe.nn.loss import IGNORED, head_loss
from moe.nn.processor import processor
from moe.nn.product import MULTIPLY
from pipelines.corpus.shards import TokenShards

TOLERANCE = 1e-4
FASTER, OF_PEAK = 1.4, 0.0
BARS = {"avx512": (1.5, 0.6), "avx2": (1.2, 0.65)}
"""Times the speed of transformers, and the part of the fastest product, by kind of processor."""

LEARNING_RATE = 1e-5


class Ours:
    """Our decoder and a plain loop."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._decoder = build(checkpoint.config, checkpoint.read)
        self._adam = torch.optim.AdamW(self._decoder.parameters(), LEARNING_RATE, fused=True)

    def step(self, tokens_BS: Tensor, labels_BS: Tensor) -> float:
        """Return the loss of one step."""
        self._adam.zero_grad()
        hidden = self._decoder(tokens_BS, Pass(logits=False)).values
        scale = 1.0 / int((labels_BS != IGNORED).sum())
        loss = head_loss(hidden, self._decoder.head_weight, labels_BS, scale)
        torch.autograd.backward(loss)
        self._adam.step()
        return loss.item()


class Theirs:
    """transformers' model of the same directory."""

    def __init__(self, path: str) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            path, trust_remote_code=True, dtype=torch.float32
        ).train()
        self._adam = torch.optim.AdamW(self.model.parameters(), LEARNING_RATE, fused=True)

    def implementation(self, name: str) -> None:
        """Choose how experts are computed.

        ``set_experts_implementation`` refuses a class of remote code, whose own source does not
        show the experts that it inherits; they obey the config all the same.
        """
        self.model.config._experts_implementation = name

    def step(self, tokens_BS: Tensor, labels_BS: Tensor) -> float:
        """Return the loss of one step; the labels are already shifted."""
        self._adam.zero_grad()
        logits = self.model(tokens_BS, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels_BS.flatten())
        torch.autograd.backward(loss)
        self._adam.step()
        return loss.item()


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--sequences", type=int, default=2, help="of a step")
    parser.add_argument("--side", type=int, default=2048, help="of the products timed as the peak")
    arguments = parse(parser, threads=1, steps=1, side=64)
    torch.set_num_threads(arguments.threads)
    checkpoint = Checkpoint.open(arguments.model)
    shards = TokenShards.open(arguments.data, "train")
    ours, theirs = Ours(checkpoint), Theirs(str(arguments.model))
    batches = _batches(shards, arguments.sequences)
    best = _fastest(theirs, ours, batches)
    theirs.implementation(best)
    seconds: dict[str, list[float]] = {"raymoe": [], "transformers": []}
    gap = 0.0
    for _ in range(arguments.steps):
        tokens, labels = batches()
        one, took = _timed(lambda: ours.step(tokens, labels))  # noqa: B023
        seconds["raymoe"].append(took)
        other, took = _timed(lambda: theirs.step(tokens, labels))  # noqa: B023
        seconds["transformers"].append(took)
        gap = max(gap, abs(one - other) / other)
    peak = _peak(arguments.side)
    flops = training_flops(checkpoint.config, tokens.shape[1])
    rows = [
        {
            "what": name if name == "raymoe" else f"transformers, {best}",
            "step ms": median(times) * 1e3,
            "tokens/s": tokens.numel() / median(times),
            "of peak": flops * tokens.numel() / median(times) / peak,
        }
        for name, times in seconds.items()
    ]
    ratio = median(seconds["transformers"]) / median(seconds["raymoe"])
    rows.append({"what": "ratio", "step ms": "", "tokens/s": ratio, "of peak": ""})
    rows.append({"what": "peak GFLOP/s", "step ms": "", "tokens/s": peak / 1e9, "of peak": ""})
    missed = []
    if gap > TOLERANCE:
        missed.append(f"losses differ by {gap:.1e} relative, bar {TOLERANCE}")
    faster, of_peak = BARS.get(processor(), (FASTER, OF_PEAK))
    if ratio < faster:
        missed.append(f"{ratio:.2f} x the tokens per second of transformers, bar {faster}")
    reached = flops * tokens.numel() / median(seconds["raymoe"]) / peak
    if reached < of_peak:
        missed.append(f"{reached:.2f} of the product peak, bar {of_peak}")
    title = f"A training step of {tokens.numel()} tokens, {arguments.threads} threads"
    title = f"{title}; {described()}"
    finish(arguments, title, rows, missed)


def _batches(shards: TokenShards, sequences: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return what gives the next batch of each call."""
    step = iter(range(10**9))

    def following() -> tuple[Tensor, Tensor]:
        first = next(step) * sequences
        batch = shards.batch([(first + row) % len(shards) for row in range(sequences)])
        return torch.from_numpy(batch.tokens).long(), torch.from_numpy(batch.labels).long()

    return following


def _fastest(theirs: Theirs, ours: Ours, batches: Callable[[], tuple[Tensor, Tensor]]) -> str:
    """Return the fastest experts implementation; every model takes the same steps, as warm-up."""
    found = {}
    for name in ("eager", "grouped_mm"):
        theirs.implementation(name)
        for _ in range(2):
            tokens, labels = batches()
            _, found[name] = _timed(lambda: theirs.step(tokens, labels))  # noqa: B023
            ours.step(tokens, labels)
    return min(found, key=lambda name: found[name])


def _timed(step: Callable[[], float]) -> tuple[float, float]:
    started = time.perf_counter()
    return step(), time.perf_counter() - started


def _peak(side: int) -> float:
    """Return the FLOPs per second of the fastest large float32 product."""
    x, y = torch.randn(side, side), torch.randn(side, side)
    there = [name for name in LIBRARIES if name != "openblas" or openblas.fits(processor())]
    times = [
        _timed(lambda: float(MULTIPLY[name](x, y, None)[0, 0]))[1]  # noqa: B023
        for name in there
        for _ in range(10)
    ]
    return 2.0 * side**3 / min(times)


if __name__ == "__main__":
    main()
