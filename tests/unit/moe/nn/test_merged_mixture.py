"""Experts merged for segments: as the oracle writes Lory's layer; causal; once for a prompt."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.config.merging import segments_at_once
from moe.config.model import FirstSegment, ModelConfig
from moe.config.share import whole
from moe.nn.decoder import Decoder, Pass, SequenceCache
from moe.nn.exchange import Alone
from moe.nn.layer_pass import LayerPass
from moe.nn.merged_mixture import MergedMixture
from tests import tiny
from tests.examples import examples
from tests.oracles import lory
from tests.routed import routed

FIRST = st.sampled_from(["even", "own"])


def config_of(length: int, first: str = "even", experts: int = 4, width: int = 40) -> ModelConfig:
    moe = {"experts": experts, "top_k": 1, "expert_size": width, "segment_tokens": length}
    found = routed(layers=2)
    assert found.moe is not None
    changed = replace(found.moe, **moe, first_segment=first)
    return replace(found, ffn_size=width, moe=changed)


def layer_of(config: ModelConfig, dtype: torch.dtype = torch.float64) -> MergedMixture:
    assert config.moe is not None
    layer = MergedMixture(config, config.moe, 0, whole(config), Alone()).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return layer


def decoder_of(config: ModelConfig) -> Decoder:
    decoder = Decoder(config).to(torch.float32)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return decoder


def hidden(batch: int, tokens: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, tokens, 24, generator=generator, dtype=torch.float64).to(dtype)


class Plain(NamedTuple):
    """The weights of a layer as the oracle takes them, leaves of their own."""

    router: Tensor
    experts: list[lory.Expert]

    @classmethod
    def of(cls, layer: MergedMixture) -> "Plain":
        def leaf(weight: Tensor) -> Tensor:
            return weight.detach().clone().requires_grad_()

        return cls(
            leaf(layer.router.weight),
            [
                (
                    leaf(each.gate_proj.weight),
                    leaf(each.up_proj.weight),
                    leaf(each.down_proj.weight),
                )
                for each in layer.experts.values()
            ],
        )


@settings(max_examples=examples(40))
@given(
    length=st.integers(1, 12),
    first=FIRST,
    experts=st.integers(1, 5),
    batch=st.integers(1, 3),
    tokens=st.integers(1, 20),
)
def test_outputs_and_gradients_are_those_of_the_paper(
    length: int, first: str, experts: int, batch: int, tokens: int
) -> None:
    """The gate is in float32 always, so nothing agrees better than that."""
    layer = layer_of(config_of(length, first, experts))
    plain = Plain.of(layer)
    ours = hidden(batch, tokens).requires_grad_()
    theirs = hidden(batch, tokens).requires_grad_()
    found = layer(ours, LayerPass()).hidden
    expected = torch.stack([lory.training(row, *plain, length, first) for row in theirs])
    assert_near(found, expected)
    push = torch.randn(found.shape, generator=torch.Generator().manual_seed(4), dtype=found.dtype)
    (found * push).sum().backward()
    (expected * push).sum().backward()
    assert_near(ours.grad, theirs.grad)
    if tokens > length:
        assert_near(layer.router.weight.grad, plain.router.grad)
    else:  # the first segment alone trains no gate
        assert not layer.router.weight.grad.any()
    for module, expert in zip(layer.experts.values(), plain.experts, strict=True):
        own = (module.gate_proj, module.up_proj, module.down_proj)
        for linear, weight in zip(own, expert, strict=True):
            assert_near(linear.weight.grad, weight.grad)


@settings(max_examples=examples(40))
@given(
    length=st.integers(1, 24),
    tokens=st.integers(2, 24),
    place=st.integers(0, 23),
    first=FIRST,
)
def test_no_position_changes_when_a_later_token_does(
    length: int, tokens: int, place: int, first: FirstSegment
) -> None:
    """Of a whole model. As the paper has it, the first segment is routed by all of its tokens."""
    place = place % (tokens - 1) + 1
    decoder = decoder_of(config_of(length, first))
    before = tiny.tokens(97, 1, tokens)
    after = before.clone()
    after[0, place] = (before[0, place] + 1) % 97
    with torch.no_grad():
        logits, changed = decoder(before).values, decoder(after).values
    same = torch.isclose(logits, changed, rtol=0, atol=1e-6).all(dim=-1)[0]
    assert not same[place]
    if first == "own" and place < length:
        assert not same[:place].any()
    else:
        assert same[:place].all()


@pytest.mark.parametrize("first", ["even", "own"])
def test_padding_changes_no_token(first: str) -> None:
    layer = layer_of(config_of(4, first))
    x, counts = hidden(2, 11), torch.tensor([11, 6])
    valid = torch.arange(11)[None, :] < counts[:, None]
    padded = layer(x, LayerPass(valid=valid))
    alone = layer(x[1:, :6], LayerPass())
    assert_near(padded.hidden[1, :6], alone.hidden[0])
    assert padded.statistics is not None
    assert padded.statistics.tokens == 17
    assert padded.statistics.load.sum() == 17
    assert padded.statistics.drop_rate == 0


def test_segments_that_are_merged_one_group_after_the_other_are_the_same() -> None:
    config = config_of(1, experts=2, width=1024)
    numbers = 3 * config.hidden_size * config.ffn_size
    tokens = segments_at_once(numbers) + 3
    layer = layer_of(config, torch.float32)
    x = hidden(1, tokens, torch.float32)
    together = x.clone().requires_grad_()
    layer(together, LayerPass()).hidden.square().sum().backward()
    at_once = {name: p.grad for name, p in layer.named_parameters()}
    layer.zero_grad()
    apart, cut = x.clone().requires_grad_(), tokens - 5
    for first, part in ((0, slice(0, cut)), (cut - 1, slice(cut - 1, tokens))):
        y = layer(apart[:, part], LayerPass()).hidden
        (y[:, 1:] if first else y).square().sum().backward()
    assert together.grad is not None
    assert_near(apart.grad, together.grad, 1e-4)
    for name, parameter in layer.named_parameters():
        assert_near(parameter.grad, at_once[name], 1e-4)


def test_bfloat16_is_near() -> None:
    config = config_of(4)
    exact, narrow = layer_of(config, torch.float32), layer_of(config, torch.float32)
    for name in ("experts",):
        narrow.get_submodule(name).to(torch.bfloat16)
    x = hidden(2, 13, torch.float32)
    found = narrow(x.to(torch.bfloat16), LayerPass()).hidden
    assert found.dtype == torch.bfloat16
    assert_near(found.float(), exact(x, LayerPass()).hidden, 0.03)
    found.float().square().sum().backward()
    exact(x, LayerPass()).hidden.square().sum().backward()
    assert_near(narrow.router.weight.grad, exact.router.weight.grad, 0.06)


@settings(max_examples=examples(20))
@given(length=st.integers(1, 9), prompt=st.integers(1, 14), pieces=st.lists(st.integers(1, 3)))
def test_after_a_prompt_the_experts_are_merged_once(
    length: int, prompt: int, pieces: list[int]
) -> None:
    config = config_of(length)
    layer, x = layer_of(config), hidden(1, prompt + sum(pieces))
    plain, cache = Plain.of(layer), SequenceCache(whole(config)).layers[0]
    with torch.no_grad():
        found = [
            layer(part, LayerPass(cache=cache)).hidden for part in x.split([prompt, *pieces], 1)
        ]
        begun, rest = x[0, :prompt], x[0, prompt:]
        expected = [lory.training(begun, *plain, length)]
        if pieces:
            expected.append(lory.after_prompt(rest, begun, *plain))
    assert_near(torch.cat(found, dim=1)[0], torch.cat(expected))


def test_statistics_tell_which_expert_weighs_most() -> None:
    layer = layer_of(config_of(4))
    found = layer(hidden(1, 12), LayerPass()).statistics
    assert found is not None
    assert found.load.tolist()[0] >= 4  # the first segment weighs all alike: the first counts
    assert found.load.sum() == 12
    assert found.probability.sum() == pytest.approx(1.0)
    assert found.sharpness > 1
    assert layer(hidden(1, 12), LayerPass(measured=False)).statistics is None


def test_a_model_trains_through_all_of_it() -> None:
    decoder = decoder_of(config_of(3))
    tokens = tiny.tokens(97, 2, 10)
    losses = []
    for _ in range(8):
        output = decoder(tokens, Pass(logits=False))
        loss = decoder.loss(output.values, tokens.roll(-1, 1), 0.05)
        losses.append(loss.item())
        loss.backward()
        with torch.no_grad():
            for parameter in decoder.parameters():
                assert parameter.grad is not None
                parameter -= 0.02 * parameter.grad
                parameter.grad = None
    assert losses[-1] < losses[0] - 0.1


def assert_near(ours: Tensor | None, theirs: Tensor | None, tolerance: float = 2e-5) -> None:
    assert ours is not None
    assert theirs is not None
    scale = theirs.detach().abs().max().clamp(min=1.0)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * scale
