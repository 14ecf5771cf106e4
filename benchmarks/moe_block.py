"""One MoE block against transformers' blocks and against a dense feed-forward of equal FLOPs.

Everything runs in one process, taking turns, with the same weights and fresh random inputs; times
are medians. ``eager`` and ``grouped_mm`` are transformers' experts implementations; ``batched_mm``
copies the weights of an expert for every token and is only run where that fits in memory. The
slower of them are dropped after the first turn. The dense feed-forward is as wide as the experts
of one token together: through torch's linear layers, and through ours for comparison.

Bars, float32 forward and backward, by the kind of processor, which the title names. Every shape:
at 512 and 4096 tokens 1.35 x the best of transformers and 0.9 of torch's dense feed-forward; at 16
tokens not slower than transformers. SmolLM2-8x in addition: with AVX-512, 0.98 of 2.9, 2.2 and
2.0 x the best of transformers at 16, 512 and 4096 tokens, and 0.9 of our own dense feed-forward at
512; with AVX2, 1.35 x at 16 tokens too, and 0.9 of the best dense feed-forward.
"""

import gc
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DeepseekV2Config, MixtralConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from benchmarks.processors import described
from benchmarks.results import finish, options, parse
from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import whole
from moe.nn.block import MixtureOfExperts
from moe.nn.exchange import Alone
from moe.nn.feed_forward import FeedForward
from moe.nn.layer_pass import LayerPass
from moe.nn.processor import processor

BEST_OF_TRANSFORMERS, OF_DENSE = 1.35, 0.9
MEASURED_SHAPE = "SmolLM2-8x"
BARS: dict[str, dict[int, dict[str, float]]] = {
    "avx512": {
        16: {"x best": 2.84},
        512: {"x best": 2.16, "of our dense": 0.9},
        4096: {"x best": 1.96},
    },
    "avx2": {
        16: {"x best": 1.35},
        512: {"of our dense": 0.9},
        4096: {"of our dense": 0.9},
    },
}
"""More bars of one shape, by kind of processor and tokens."""

FIRST_TURNS, SLOW = 1, 1.3
BATCHED_BYTES = 4e9
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a block; ``skewed`` sends every token to expert 0 first, half of all assignments."""

    name: str
    hidden: int
    experts: int
    top_k: int
    size: int
    shared: int = 0
    skewed: bool = False

    def divided(self, by: int) -> "Shape":
        """Return the same block with all widths divided, which shows no speed."""
        return replace(
            self, hidden=self.hidden // by, size=self.size // by, shared=self.shared // by
        )

    def config(self) -> ModelConfig:
        """Return a model of one such block."""
        moe = MoeConfig(
            self.experts,
            self.top_k,
            self.size,
            renormalise=not self.shared,
            shared_size=self.shared,
        )
        return ModelConfig(
            family="raymoe",
            vocab_size=8,
            hidden_size=self.hidden,
            layers=1,
            heads=1,
            kv_heads=1,
            head_size=64,
            ffn_size=self.size,
            norm_eps=1e-6,
            rope_theta=1e4,
            max_positions=8,
            tie_embeddings=True,
            moe=moe,
        )


SHAPES = (
    Shape("SmolLM2-8x", hidden=576, experts=8, top_k=2, size=1536),
    Shape("SmolLM2-8x, skewed", hidden=576, experts=8, top_k=2, size=1536, skewed=True),
    Shape("OLMoE", hidden=2048, experts=64, top_k=8, size=1024),
    Shape("DeepSeek-16B", hidden=2048, experts=64, top_k=6, size=1408, shared=2816),
)


def ours(shape: Shape, dtype: torch.dtype) -> MixtureOfExperts:
    """Return our block with random weights."""
    config = shape.config()
    assert config.moe is not None
    block = MixtureOfExperts(config, config.moe, 0, whole(config), Alone()).to(dtype)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.02)
        if shape.skewed:
            block.router.weight[0] = 0.5
    return block


def theirs(shape: Shape, block: MixtureOfExperts) -> nn.Module:
    """Return transformers' block with the same weights."""
    sizes: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "num_experts_per_tok": shape.top_k,
        "experts_implementation": "eager",
    }
    found: Any
    if shape.shared:
        found = DeepseekV2Moe(
            DeepseekV2Config(
                **sizes,
                moe_intermediate_size=shape.size,
                n_routed_experts=shape.experts,
                n_shared_experts=shape.shared // shape.size,
                routed_scaling_factor=1.0,
                topk_method="greedy",
            )
        )
        for part in ("gate", "up", "down"):
            linear = getattr(found.shared_experts, f"{part}_proj")
            linear.weight.data = getattr(block.shared, f"{part}_proj").weight.data
    else:
        block_type: Any = MixtralSparseMoeBlock
        found = block_type(
            MixtralConfig(**sizes, intermediate_size=shape.size, num_local_experts=shape.experts)
        )
    found.gate.weight.data = block.router.weight.data
    with torch.no_grad():
        found.to(block.router.weight.dtype)
        for number in range(shape.experts):
            gate, up, down = (each.parameters[0] for each in block.experts.weights(number))
            found.experts.gate_up_proj[number] = torch.cat((gate, up))
            found.experts.down_proj[number] = down
    found.train()
    module: nn.Module = found
    return module


class TorchFeedForward(nn.Module):
    """A dense feed-forward as anybody writes it."""

    def __init__(self, hidden: int, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, size, bias=False, dtype=dtype)
        self.up = nn.Linear(hidden, size, bias=False, dtype=dtype)
        self.down = nn.Linear(size, hidden, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        y: Tensor = self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return y


class Race:
    """The contestants of one shape and type, at one number of tokens."""

    def __init__(self, shape: Shape, dtype: torch.dtype, tokens: int, backward: bool) -> None:
        self.shape, self.dtype, self.tokens, self.backward = shape, dtype, tokens, backward
        block = ours(shape, dtype)
        reference = theirs(shape, block)
        width = shape.top_k * shape.size + shape.shared
        self.contestants: dict[str, Step] = {"raymoe": self._step(block, _ours)}
        for name in self._implementations():
            self.contestants[name] = self._step(reference, _implemented(name))
        dense = TorchFeedForward(shape.hidden, width, dtype)
        self.contestants["dense"] = self._step(dense, nn.Module.__call__)
        fast = FeedForward(shape.hidden, width).to(dtype)
        self.contestants["our dense"] = self._step(fast, nn.Module.__call__)
        self._check(block, reference)

    def run(self, turns: int) -> dict[str, float]:
        """Return the median seconds of each; slow ones of transformers run the first turns only."""
        seconds: dict[str, list[float]] = {name: [] for name in self.contestants}
        for turn in range(turns + 1):
            for name in self._still_in(seconds, turn):
                seconds[name].append(self._timed(self.contestants[name]))
        return {name: median(times[1:]) for name, times in seconds.items()}

    def _still_in(self, seconds: dict[str, list[float]], turn: int) -> list[str]:
        if turn <= FIRST_TURNS:
            return list(seconds)
        best = min(min(seconds[name]) for name in self._implementations())
        slow = {n for n in self._implementations() if min(seconds[n]) > SLOW * best}
        return [name for name in seconds if name not in slow]

    def _timed(self, step: Step) -> float:
        x, gradient = self._inputs(), torch.randn(1, self.tokens, self.shape.hidden)
        started = time.perf_counter()
        step(x, gradient.to(self.dtype))
        return time.perf_counter() - started

    def _inputs(self) -> Tensor:
        x = torch.randn(1, self.tokens, self.shape.hidden)
        if self.shape.skewed:
            x += 0.3
        return x.to(self.dtype).requires_grad_(self.backward)

    def _step(self, module: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> Step:
        def step(x: Tensor, gradient: Tensor) -> None:
            with torch.set_grad_enabled(self.backward):
                y = call(module, x)
            if self.backward:
                torch.autograd.backward(y, gradient)
                module.zero_grad(set_to_none=True)

        return step

    def _implementations(self) -> list[str]:
        copied = 3 * self.shape.hidden * self.shape.size * self.shape.top_k * self.tokens
        fits = copied * self.dtype.itemsize <= BATCHED_BYTES
        return ["eager", "grouped_mm", *(["batched_mm"] if fits else [])]

    def _check(self, block: nn.Module, reference: nn.Module) -> None:
        """Both blocks must compute the same before their times are compared."""
        if self.dtype != torch.float32:
            return
        x = self._inputs().detach()
        with torch.no_grad():
            for name in self._implementations():
                torch.testing.assert_close(
                    _ours(block, x), _implemented(name)(reference, x), rtol=1e-3, atol=1e-4
                )


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    rows, missed = [], []
    for shape in (each.divided(arguments.divide) for each in SHAPES):
        for dtype in arguments.types:
            for tokens in arguments.tokens:
                for backward in (True, False):
                    if not _wanted(arguments, shape, dtype, backward):
                        continue
                    race = Race(shape, TYPES[dtype], tokens, backward)
                    row = _row(shape, dtype, tokens, backward, race.run(arguments.turns))
                    rows.append(row)
                    print(*(f"{v:.4g}" if isinstance(v, float) else v for v in row.values()))
                    judged = dtype == "fp32" and backward
                    missed += missed_bars(row, shape, tokens, processor()) if judged else []
                    del race
                    gc.collect()
    title = f"One MoE block, {arguments.threads} threads, milliseconds; {described()}"
    finish(arguments, title, rows, missed)


def _arguments() -> Namespace:
    parser = options(__doc__ or "", material=False)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15, help="measurements of each")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 512, 4096])
    parser.add_argument("--types", nargs="+", choices=list(TYPES), default=list(TYPES))
    parser.add_argument("--shapes", default="", help="only those whose name contains this")
    parser.add_argument("--backward-only", action="store_true", help="leave out the forward rows")
    parser.add_argument("--divide", type=int, default=1, help="divide all widths by this")
    return parse(parser, threads=1, turns=1, tokens=[4], divide=8)


def _wanted(arguments: Namespace, shape: Shape, dtype: str, backward: bool) -> bool:
    if not backward and arguments.backward_only:
        return False
    return arguments.shapes in shape.name


def _row(
    shape: Shape, dtype: str, tokens: int, backward: bool, seconds: dict[str, float]
) -> dict[str, Any]:
    names = ("raymoe", "eager", "grouped_mm", "batched_mm", "dense", "our dense")
    shown = {name: seconds[name] * 1e3 if name in seconds else "-" for name in names}
    best = min(s for name, s in seconds.items() if name in ("eager", "grouped_mm", "batched_mm"))
    return {
        "what": f"{shape.name}, {dtype}, {'forward+backward' if backward else 'forward'}",
        "tokens": tokens,
        **shown,
        "x best": best / seconds["raymoe"],
        "of dense": seconds["dense"] / seconds["raymoe"],
        "of our dense": seconds["our dense"] / seconds["raymoe"],
    }


def missed_bars(row: dict[str, Any], shape: Shape, tokens: int, kind: str) -> list[str]:
    """Return the bars of a kind of processor that a row of float32 forward and backward misses."""
    few = tokens < 512
    bars = {"x best": 1.0} if few else {"x best": BEST_OF_TRANSFORMERS, "of dense": OF_DENSE}
    if shape.name == MEASURED_SHAPE:
        bars |= BARS.get(kind, {}).get(tokens, {})
    return [
        f"{row['what']}, {tokens} tokens: {row[bar]:.2f} {bar}, bar {least}"
        for bar, least in bars.items()
        if row[bar] < least
    ]


def _ours(block: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = block(x, LayerPass())[0]
    return y


def _implemented(name: str) -> Callable[[nn.Module, Tensor], Tensor]:
    def call(block: Any, x: Tensor) -> Tensor:
        block.experts.config._experts_implementation = name
        y: Tensor = block(x)
        return y

    return call


if __name__ == "__main__":
    main()
