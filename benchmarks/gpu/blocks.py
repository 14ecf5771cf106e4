"""One MoE block in bf16, forward and backward, against transformers' and a dense layer.

All contestants have the same routing and weights. The dense feed-forward is as wide as the experts
of one token together, so that its products have as many FLOPs: 18 T K D F. Weights that fit into
a cache stay there from round to round, of every contestant alike.

Shapes: T tokens, K experts per token, D hidden, F expert columns.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.layers import OLMOE, random_weights, trained
from benchmarks.gpu.rows import Bar, Figure, Row, Setting, at_least, at_most, attempted
from benchmarks.gpu.timing import forget_peak, milliseconds, peak_gigabytes
from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import whole
from moe.nn.block import MixtureOfExperts
from moe.nn.build import build
from moe.nn.experts.experts import BankName
from moe.nn.feed_forward import FeedForward
from moe.nn.layer_pass import LayerPass

TOKENS = (16, 4096, 16384)
GROUPED, LOOP, DENSE = "grouped", "loop", "dense"
THEIRS, EAGER = "transformers grouped_mm", "transformers eager"
BARS = {"OLMoE": 300.0, "Skywork": 480.0}
"""TFLOP/s of our grouped bank at the most tokens, on an H200."""

_CLOSE = 2e-2
_TYPE = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a block."""

    name: str
    hidden: int
    experts: int
    top_k: int
    size: int

    def config(self) -> ModelConfig:
        """Return a model of one such block."""
        moe = MoeConfig(self.experts, self.top_k, self.size)
        sizes = replace(OLMOE, hidden_size=self.hidden, layers=1, query_key_norm=None)
        return sizes.with_moe(moe, "mixtral")

    def flops(self, tokens: int) -> float:
        """Return the FLOPs of the products of experts, forward and backward."""
        return 18.0 * tokens * self.top_k * self.hidden * self.size


BLOCKS = (
    Sizes("OLMoE", hidden=2048, experts=64, top_k=8, size=1024),
    Sizes("SmolLM2-8x", hidden=576, experts=8, top_k=2, size=1536),
    Sizes("Skywork", hidden=4608, experts=16, top_k=2, size=12288),
)
_TINY = Sizes("tiny", hidden=32, experts=4, top_k=2, size=16)


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to compute a block, and how often it is timed."""

    name: str
    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    rounds: int = 10


def part(setting: Setting) -> Iterator[Row]:
    """Yield a row for every block, number of tokens, and contestant."""
    torch.manual_seed(0)
    for sizes in (_TINY,) if setting.tiny else BLOCKS:
        contestants = [*_ours(setting, sizes)]
        try:
            contestants += _theirs(sizes, contestants[0].module)
        except (ImportError, AttributeError, TypeError) as error:
            yield Row(f"{sizes.name}, transformers", {"error": f"{type(error).__name__}: {error}"})
        yield from _agreement(setting, sizes, contestants)
        for tokens in (16,) if setting.tiny else TOKENS:
            race = _Race(setting, sizes, tokens)
            for each in reversed(contestants):  # Ours is last: its bars need the others.
                yield attempted(race.name(each), partial(race.timed, each))
        del contestants
        gc.collect()


class _Race:
    """The speeds on one block and number of tokens, as far as they are known."""

    def __init__(self, setting: Setting, sizes: Sizes, tokens: int) -> None:
        self._setting, self._sizes, self._tokens = setting, sizes, tokens
        self._speeds: dict[str, float] = {}

    def name(self, each: Contestant) -> str:
        """Return what the row of a contestant is called."""
        return f"{self._sizes.name}, {self._tokens} tokens, {each.name}"

    def timed(self, each: Contestant) -> Row:
        """Return the speed of a contestant; ours has the bars."""
        setting, sizes = self._setting, self._sizes
        forget_peak(setting)
        taken = milliseconds(setting, _pass(setting, sizes, each, self._tokens), each.rounds)
        speed = sizes.flops(self._tokens) / taken / 1e9
        self._speeds[each.name] = speed
        figures: dict[str, Figure] = {
            "ms": taken,
            "TFLOP/s": speed,
            "of the ceiling": setting.share_of_flops(speed * 1e12),
            "peak GB": peak_gigabytes(setting),
        }
        judged = each.name == GROUPED and self._tokens == TOKENS[-1]
        return Row(self.name(each), figures, tuple(self._bars()) if judged else ())

    def _bars(self) -> Iterator[Bar]:
        name, ours = self._sizes.name, self._speeds[GROUPED]
        if name in BARS:
            yield at_least(self._setting, "TFLOP/s", ours, BARS[name])
        if name == "OLMoE" and THEIRS in self._speeds:
            yield at_least(self._setting, f"x {THEIRS}", ours / self._speeds[THEIRS], 1.0)


def _pass(setting: Setting, sizes: Sizes, each: Contestant, tokens: int) -> Callable[[], None]:
    """Return one pass forward and backward; gradients are added to those that are there."""
    size = (1, tokens, sizes.hidden)
    x = torch.randn(size, device=setting.torch_device).to(_TYPE).requires_grad_()
    gradient = torch.randn(size, device=setting.torch_device).to(_TYPE)

    def work() -> None:
        x.grad = None
        torch.autograd.backward(each.forward(x), gradient)

    return work


def _ours(setting: Setting, sizes: Sizes) -> Iterator[Contestant]:
    """Yield our block with each bank, and our dense layer of as many FLOPs."""
    config = sizes.config()
    share = replace(whole(config), embedding=False, head=False)
    read = random_weights(setting)
    decoder = trained(build(config, read, share, None, setting.torch_device, _TYPE))
    block = decoder.mixture(0)

    def forward(bank: BankName) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            block.experts.bank = bank
            y: Tensor = block(x, LayerPass()).hidden
            return y

        return run

    yield Contestant(GROUPED, block, forward("grouped"))
    yield Contestant(LOOP, block, forward("loop"))
    with setting.torch_device:
        dense = FeedForward(sizes.hidden, sizes.top_k * sizes.size).to(_TYPE)
    yield Contestant(DENSE, dense, dense)


def _theirs(sizes: Sizes, block: nn.Module) -> list[Contestant]:
    """Return transformers' block with the weights of ours, computed in two ways."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    assert isinstance(block, MixtureOfExperts)
    options: dict[str, Any] = {
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.size,
        "num_local_experts": sizes.experts,
        "num_experts_per_tok": sizes.top_k,
        "experts_implementation": "eager",
    }
    block_type: Any = MixtralSparseMoeBlock
    weight = block.router.weight
    with weight.device:
        found = block_type(MixtralConfig(**options))
    found = found.to(_TYPE)
    with torch.no_grad():
        found.gate.weight.copy_(weight)
        for number in range(sizes.experts):
            gate, up, down = (each.parameters[0] for each in block.experts.weights(number))
            found.experts.gate_up_proj[number] = torch.cat((gate, up))
            found.experts.down_proj[number] = down

    def forward(implementation: str) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            found.experts.config._experts_implementation = implementation
            y: Tensor = found(x)
            return y

        return run

    return [
        Contestant(THEIRS, found, forward("grouped_mm")),
        Contestant(EAGER, found, forward("eager"), rounds=1),
    ]


def _agreement(setting: Setting, sizes: Sizes, contestants: list[Contestant]) -> Iterator[Row]:
    """Yield how far other outputs are from that of our grouped bank, before speeds are compared."""
    x = torch.randn(1, 64, sizes.hidden, device=setting.torch_device).to(_TYPE)
    with torch.no_grad():
        ours, *others = [each.forward(x) for each in contestants if each.name != DENSE]
    names = [each.name for each in contestants if each.name != DENSE][1:]
    for name, other in zip(names, others, strict=True):
        gap = ((other - ours).float().norm() / ours.float().norm()).item()
        yield Row(
            f"{sizes.name}, {name} against {GROUPED}", {"gap": gap}, (at_most("gap", gap, _CLOSE),)
        )
