"""One kind of work of a training step, set up to be run alone, round after round.

What runs is what the actors run: the decoder of a share, gradients added to those that are there,
the head with its loss, the optimiser of a share. Weights are random, the router's too. Its tokens
are less so: hidden states are half noise, half a vector that all tokens of a micro-batch share, as
those of a trained model resemble each other. So experts get unlike numbers of tokens, and other
numbers in every round, which matters: a product of a new shape costs more than of one seen before.
All experts are on the one rank, whose whole work is the same however they are loaded; for gangs,
``Workload.imbalance`` says how unlike their ranks are.

A block is run in a chain of as many as no cache holds, because a stage never has warm weights
either. In a round the chain goes forward once and backward once; time is per block.
"""

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from actors.step.buckets import buckets_of
from actors.step.optimizer import RankOptimizer
from moe.config.model import ModelConfig
from moe.config.run import TrainSection
from moe.config.share import Share, whole
from moe.config.tensors import held_by
from moe.nn.build import build
from moe.nn.decoder import Pass
from moe.planning.counts.work import part_of
from moe.surgery.initialise import initial

CHAIN_BYTES = 2**27
"""Weights of a chain of blocks, at least; with their gradients twice that."""

_FLOAT_BYTES = 4
_SEED = 0
_TRAIN = TrainSection(steps=1, global_batch=1, learning_rate=1e-5)


class Bench(Protocol):
    """Work that is timed in two halves; ``count`` is how many times a round does it."""

    count: int

    def prepare(self) -> None:
        """Make ready what a round uses up; not timed."""

    def forward(self) -> None:
        """Do the first half."""

    def backward(self) -> None:
        """Do the second half."""


def parts_of(config: ModelConfig) -> tuple[str, ...]:
    """Return the parts of a model that micro-batches pass: its ends, its kinds of block."""
    kinds = sorted({part_of(config, layer) for layer in range(config.layers)})
    return ("embedding", *kinds, "head")


def alone(
    config: ModelConfig, part: str, chain_bytes: int = CHAIN_BYTES
) -> tuple[ModelConfig, Share]:
    """Return a model of nothing but one part, and the share that holds it.

    Blocks are as many as have weights of ``chain_bytes`` together.
    """
    if part in ("embedding", "head"):
        ends = replace(config, layers=1, moe=None)
        held = replace(whole(ends), layers=(0, 0), embedding=part == "embedding")
        return ends, replace(held, head=part == "head")
    moe = replace(config.moe, dense_layers=()) if part == "moe" and config.moe else None
    block = replace(config, layers=1, moe=moe)
    size = _FLOAT_BYTES * parameters(*_blocks(block))
    like = sum(part_of(config, layer) == part for layer in range(config.layers))
    return _blocks(replace(block, layers=min(like, -(-chain_bytes // size))))


def parameters(config: ModelConfig, share: Share) -> int:
    """Count the parameters of a share."""
    return sum(tensor.elements for tensor in held_by(config, share))


class PartBench:
    """Embedding, chain of blocks, or head with loss, on micro-batches of one size.

    With ``half`` it is a part of a bf16 run: bfloat16 weights, float32 gradients.
    """

    def __init__(
        self,
        config: ModelConfig,
        part: str,
        device: torch.device,
        half: bool = False,
        chain_bytes: int = CHAIN_BYTES,
    ) -> None:
        only, share = alone(config, part, chain_bytes)
        self.count = max(1, len(share.layer_numbers))
        self.decoder = build(
            only,
            lambda tensor: initial(only, tensor, _SEED),
            share,
            device=device,
            dtype=torch.bfloat16 if half else torch.float32,
        )
        trained = {tensor.name for tensor in held_by(only, share) if tensor.role.trained}
        for name, parameter in self.decoder.named_parameters():
            if name in trained:
                parameter.grad_dtype = torch.float32
                parameter.grad = torch.zeros_like(parameter, dtype=torch.float32)
        self._device = device
        self._source = torch.Generator().manual_seed(_SEED)
        self.use(1, 1)

    def use(self, micro_batch: int, sequence_length: int) -> None:
        """Go on with micro-batches of another size."""
        self._size = micro_batch, sequence_length
        self._gradient_BSD = self._drawn(*self._size)

    def prepare(self) -> None:
        """Draw a micro-batch that no round has had."""
        words = self.decoder.config.vocab_size
        tokens_BS = torch.randint(words, self._size, generator=self._source)
        self._tokens_BS = tokens_BS.to(self._device)
        common_11D = self._drawn(1, 1)
        self._hidden_BSD = (self._drawn(*self._size) + common_11D).requires_grad_()

    def forward(self) -> None:
        """Run a micro-batch through, with its loss where there is one."""
        share = self.decoder.share
        x = self._tokens_BS if share.embedding else self._hidden_BSD
        self._output = self.decoder(x, Pass(tokens=self._tokens_BS, logits=False)).values
        if share.head:
            scale = 1.0 / self._tokens_BS.numel()
            self._output = self.decoder.loss(self._output, self._tokens_BS, scale)

    def backward(self) -> None:
        """Add the gradients of the micro-batch to those that are there."""
        gradient = None if self.decoder.share.head else self._gradient_BSD
        torch.autograd.backward(self._output, gradient)
        del self._output

    def _drawn(self, *size: int) -> Tensor:
        hidden = self.decoder.config.hidden_size
        return torch.randn(*size, hidden, generator=self._source).to(self._device)


class OptimizerBench:
    """What the optimiser does once a step, over the parameters of a part; all in one half."""

    count = 1

    def __init__(self, part: PartBench) -> None:
        self._buckets = buckets_of(part.decoder, replica=0, replicas=1, gang=1)
        self._optimizer = RankOptimizer(self._buckets, _TRAIN)
        self.parameters = sum(bucket.layout.slots[-1].stop for bucket in self._buckets)

    def prepare(self) -> None:
        """Give every parameter a gradient, large enough to be clipped."""
        for bucket in self._buckets:
            bucket.gradients.fill_(1.0)

    def forward(self) -> None:
        """Clip by the norm of all ranks, update, round masters to weights, clear."""
        device = self._buckets[0].gradients.device
        self._optimizer.clip(self._optimizer.squared_norm(device).sqrt().item())
        self._optimizer.step(0)
        for bucket in self._buckets:
            bucket.publish()
        self._optimizer.clear()

    def backward(self) -> None:
        """Nothing is left to do."""


def _blocks(config: ModelConfig) -> tuple[ModelConfig, Share]:
    return config, replace(whole(config), embedding=False, head=False)
