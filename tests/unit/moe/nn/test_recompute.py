"""Layers run again in the backward pass: the same bits, and only their input kept."""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from moe.config.model import ModelConfig
from moe.config.share import whole
from moe.nn import balance
from moe.nn.attention import LayerCache
from moe.nn.block import Block
from moe.nn.decoder import Decoder, Pass, SequenceCache
from moe.nn.dispatch import Capacity
from moe.nn.exchange import Alone
from moe.nn.later import Later
from moe.nn.layer_pass import LayerPass
from moe.nn.recompute import recomputed
from moe.nn.rotary import rotation
from tests import tiny
from tests.plans import FINE, SMOLLM2, with_experts
from tests.routed import routed, settings_of

KINDS: dict[str, ModelConfig] = {
    "dense": replace(routed(), moe=None, attention_bias=True, query_key_norm="all"),
    "top two": routed(),
    "shared": routed(shared_size=13, shared_gate=True, dense_layers=(1,), renormalise=False),
    "sigmoid": routed(score="sigmoid", balance_bias=True, groups=2, top_groups=1, scale=2.5),
    "hashed": routed(hashed=True, top_k=1),
    "merged": routed(segment_tokens=4, top_k=1, expert_size=40),
}


class Step(NamedTuple):
    """What one forward and backward pass gave."""

    loss: Tensor
    statistics: Any
    gradients: dict[str, Tensor | None]


def decoder_of(config: ModelConfig, dtype: torch.dtype = torch.float32) -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(config, dtype=dtype)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.2)
    return decoder


def step(
    config: ModelConfig, run: Pass, dtype: torch.dtype = torch.float32, waiting: bool = False
) -> Step:
    """Take the loss of two micro-batches, whose gradients add up, those of weights afterwards."""
    decoder, losses, statistics = decoder_of(config, dtype), [], []
    work = [Later() if waiting else None for _ in range(2)]
    for seed in range(2):
        tokens = tiny.tokens(config.vocab_size, 2, 9, seed=seed)
        output = decoder(tokens, replace(run, logits=False, later=work[seed]))
        losses.append(decoder.loss(output.values, tokens.roll(-1, 1), 0.1))
        statistics.append(output.statistics)
    for loss in losses:  # the second runs forward before the first runs back, as in a pipeline
        loss.backward()
    for later in filter(None, work):
        later.run()
    gradients = {name: p.grad for name, p in decoder.named_parameters()}
    return Step(torch.stack(losses).detach(), statistics, gradients)


def assert_same(found: Step, expected: Step) -> None:
    assert torch.equal(found.loss, expected.loss)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        other = found.gradients[name]
        assert (other is None) == (gradient is None), name
        assert gradient is None or torch.equal(other, gradient), name
    torch.testing.assert_close(found.statistics, expected.statistics, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("layers", [{0}, {2}, {0, 1, 2}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("waiting", [False, True])
def test_loss_statistics_and_gradients_are_the_same_bits(
    name: str, layers: set[int], dtype: torch.dtype, waiting: bool
) -> None:
    run = Pass(Capacity(0.75), settings_of("switch", "sequence"))
    again = replace(run, recompute=frozenset(layers))
    expected = step(KINDS[name], run, dtype, waiting)
    assert_same(step(KINDS[name], again, dtype, waiting), expected)
    trained = [gradient for gradient in expected.gradients.values() if gradient is not None]
    assert all(gradient.any() for gradient in trained[:3])


def test_losses_on_routers_move_a_router_that_runs_again() -> None:
    config = KINDS["top two"]
    again = Pass(recompute=frozenset({0, 1, 2}))
    plain, pushed = step(config, again), step(config, replace(again, balance=settings_of("switch")))
    name = "model.layers.0.mlp.router.weight"
    gap = pushed.gradients[name] - plain.gradients[name]  # type: ignore[operator]
    assert gap.abs().max() > 1e-3


def test_padding_and_experts_that_choose() -> None:
    config = KINDS["shared"]
    valid = torch.arange(9)[None, :] < torch.tensor([[9], [4]])
    run = Pass(Capacity(0.75, chooser="experts"), settings_of("skywork"), valid=valid)
    assert_same(step(config, replace(run, recompute=frozenset({0, 2}))), step(config, run))


def test_weights_are_trained_behind_an_input_that_is_not() -> None:
    config = KINDS["dense"]
    found = []
    for again in (frozenset[int](), frozenset({0, 1, 2})):
        decoder = decoder_of(config)
        decoder.model.embed_tokens.requires_grad_(False)
        decoder(tiny.tokens(97, 2, 9), Pass(recompute=again)).values.square().sum().backward()
        found.append(decoder.model.layers["0"].mlp.up_proj.weight.grad)
    assert found[0] is not None
    assert torch.equal(found[0], found[1])


def test_without_gradients_nothing_runs_twice() -> None:
    decoder, tokens = decoder_of(KINDS["top two"]), tiny.tokens(97, 1, 5)
    share = decoder.share
    again = Pass(cache=SequenceCache(share), recompute=frozenset({0, 1, 2}))
    with torch.inference_mode():
        logits = decoder(tokens, again).values
    assert torch.equal(logits, decoder(tokens, Pass(cache=SequenceCache(share))).values)


def test_a_cache_and_recomputation_exclude_each_other() -> None:
    decoder = decoder_of(KINDS["dense"])
    run = Pass(cache=SequenceCache(decoder.share), recompute=frozenset({1}))
    with pytest.raises(RuntimeError, match="cannot run twice"):
        decoder(tiny.tokens(97, 1, 5), run)
    assert isinstance(run.cache.layers[0], LayerCache)  # type: ignore[union-attr]


def kept_floats(config: ModelConfig, layer: int, again: bool, tokens: int) -> float:
    """Return how many floats per token one block keeps for its backward pass."""
    torch.manual_seed(0)
    block = Block(config, layer, whole(config), Alone())
    x = torch.randn(1, tokens, config.hidden_size, requires_grad=True)
    turn = rotation(config, torch.arange(tokens))
    run = LayerPass(balance=balance.Balance("switch", coefficients={layer: 0.1}))
    weights = {parameter.data_ptr() for parameter in block.parameters()}
    weights |= {part.data_ptr() for part in turn}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = recomputed(block, x, turn, run) if again else block(x, turn, run)
    assert output.hidden.requires_grad
    return sum(seen.values()) / 4 / tokens


@pytest.mark.parametrize(
    ("config", "layer"), [(SMOLLM2, 0), (with_experts(SMOLLM2, 4), 0), (FINE, 1)]
)
def test_a_block_keeps_its_input_alone(config: ModelConfig, layer: int) -> None:
    assert kept_floats(config, layer, True, 256) == config.hidden_size
    assert kept_floats(config, layer, False, 256) > 15 * config.hidden_size
