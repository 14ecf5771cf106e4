"""The decoder against transformers: logits and every gradient, whole and in slices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.config.share import whole
from moe.errors import RankLost
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass, SequenceCache
from tests import exports, tiny
from tests.examples import examples
from tests.routed import routed

FAST = settings(
    max_examples=examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ROPES = st.sampled_from(
    [
        {"rope_type": "default", "rope_theta": 10000.0},
        {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
        {
            "rope_type": "llama3",
            "rope_theta": 1000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ]
)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 4))
    heads = kv_heads * draw(st.integers(1, 3))
    return {
        "hidden_size": heads * draw(st.sampled_from([4, 7])),
        "intermediate_size": draw(st.sampled_from([24, 33])),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "num_key_value_heads": kv_heads,
        "num_attention_heads": heads,
        "head_dim": draw(st.sampled_from([4, 6, 10])),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": draw(ROPES),
    }


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Compare relative to the largest entry."""
    return bool((ours - theirs).abs().max() <= 1e-5 * theirs.abs().max())


def loaded(model: Any, path: Path) -> tuple[Checkpoint, Decoder]:
    checkpoint = Checkpoint.open(tiny.saved(model, path))
    return checkpoint, build(checkpoint.config, checkpoint.read)


def check_parity(model: Any, path: Path) -> None:
    """Compare logits and gradients. Where a model amplifies rounding, transformers shows how much.

    Its float32 gradients differ from its float64 ones by rounding alone; ours may differ from its
    float32 ones by a few times as much.
    """
    checkpoint, decoder = loaded(model, path)
    inputs = tiny.tokens(checkpoint.config.vocab_size, 2, 11)
    theirs = model(inputs).logits
    ours = decoder(inputs).values
    assert close(ours, theirs)
    weights = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(3))
    (theirs * weights).sum().backward()
    (ours * weights).sum().backward()
    expected = gradients(model)
    model.zero_grad()
    (model.double()(inputs).logits * weights).sum().backward()
    exact = gradients(model)
    floor = 0.01 * max(gradient.abs().max().item() for gradient in expected.values())
    for name, parameter in decoder.named_parameters():
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        there = disk_name(checkpoint.config.family, name)
        rounding = (expected[there] - exact[there]).abs().max().item()
        gap = (ours - expected[there]).abs().max().item()
        size = max(expected[there].abs().max().item(), floor)
        assert gap <= 1e-5 * size + 4 * rounding, name


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Return transformers' gradients under the names of its files: experts unstacked."""
    found = {}
    for name, parameter in model.named_parameters():
        if name.endswith("experts.gate_up_proj"):
            prefix = name.replace("mlp.experts.gate_up_proj", "block_sparse_moe.experts")
            for expert, gradient in enumerate(parameter.grad):
                first, third = gradient.chunk(2)
                found[f"{prefix}.{expert}.w1.weight"] = first
                found[f"{prefix}.{expert}.w3.weight"] = third
        elif name.endswith("experts.down_proj"):
            prefix = name.replace("mlp.experts.down_proj", "block_sparse_moe.experts")
            for expert, gradient in enumerate(parameter.grad):
                found[f"{prefix}.{expert}.w2.weight"] = gradient
        else:
            found[name.replace("mlp.gate.weight", "block_sparse_moe.gate.weight")] = parameter.grad
    return found


@FAST
@given(shape=shapes(), bias=st.booleans())
def test_llama_equals_transformers(
    shape: dict[str, Any], bias: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = tiny.llama(**shape, attention_bias=bias, mlp_bias=bias)
    check_parity(model, tmp_path_factory.mktemp("llama"))


@FAST
@given(shape=shapes(), experts=st.integers(1, 5), data=st.data())
def test_mixtral_equals_transformers(
    shape: dict[str, Any],
    experts: int,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    top_k = data.draw(st.integers(1, experts))
    model = tiny.mixtral(**shape, num_local_experts=experts, num_experts_per_tok=top_k)
    check_parity(model, tmp_path_factory.mktemp("mixtral"))


def test_a_narrow_deep_model_amplifies_the_rounding_of_both(tmp_path: Path) -> None:
    """A shape that Hypothesis found: the two differ by 1.5e-5 of a gradient, rounding all of it."""
    narrow = {"hidden_size": 8, "intermediate_size": 33, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4}
    check_parity(tiny.mixtral(**narrow, **heads, tie_word_embeddings=False), tmp_path)


def test_slices_in_a_row_equal_the_whole(tmp_path: Path) -> None:
    checkpoint, decoder = loaded(tiny.mixtral(num_hidden_layers=5), tmp_path)
    inputs = tiny.tokens(97, 2, 9)
    x = inputs
    for start, stop in ((0, 1), (1, 4), (4, 5)):
        share = replace(
            whole(checkpoint.config), layers=(start, stop), embedding=start == 0, head=stop == 5
        )
        x = build(checkpoint.config, checkpoint.read, share)(x).values
    assert torch.equal(x, decoder(inputs).values)


@pytest.mark.parametrize("pieces", [(7, 1, 1), (1,) * 9, (3, 6), (4, 3, 2)])
def test_cached_passes_equal_one_pass(pieces: tuple[int, ...], tmp_path: Path) -> None:
    checkpoint, decoder = loaded(tiny.mixtral(), tmp_path)
    inputs = tiny.tokens(97, 1, 9)
    cache = SequenceCache(whole(checkpoint.config))
    with torch.no_grad():
        logits = [decoder(part, Pass(cache=cache)).values for part in inputs.split(pieces, dim=1)]
        expected = decoder(inputs).values
    assert close(torch.cat(logits, dim=1), expected)


def test_a_share_that_hashes_tokens_needs_their_numbers(tmp_path: Path) -> None:
    config = routed(hashed=True, top_k=1)
    checkpoint = Checkpoint.open(exports.export(config, tmp_path))
    inputs = tiny.tokens(97, 2, 9)
    first = replace(whole(config), layers=(0, 1), head=False)
    rest = replace(whole(config), layers=(1, 3), embedding=False)
    hidden = build(config, checkpoint.read, first)(inputs).values
    last = build(config, checkpoint.read, rest)
    with pytest.raises(RuntimeError, match=r"layer 1 hashes .* give Pass\.tokens"):
        last(hidden)
    expected = build(config, checkpoint.read)(inputs).values
    assert torch.equal(last(hidden, Pass(tokens=inputs)).values, expected)


@pytest.mark.parametrize("asked", [1, 3, 4, 6])
def test_a_pass_ends_at_the_layer_that_refuses(asked: int, tmp_path: Path) -> None:
    """As where a rank has left its epoch: it is asked at every layer, forward and back."""
    _, decoder = loaded(tiny.mixtral(num_hidden_layers=3), tmp_path)
    seen: list[int] = []

    def at(layer: int) -> None:
        seen.append(layer)
        if len(seen) == asked:
            raise RankLost("the rank has left its epoch")

    with pytest.raises(RankLost, match="left its epoch"):
        decoder(tiny.tokens(97, 2, 9), Pass(entered=at, reached=at)).values.sum().backward()
    assert seen == [0, 1, 2, 2, 1, 0][:asked]


def test_the_cache_outgrows_its_first_buffer(tmp_path: Path) -> None:
    checkpoint, decoder = loaded(tiny.llama(), tmp_path)
    inputs = tiny.tokens(97, 1, 200)
    cache = SequenceCache(whole(checkpoint.config))
    with torch.no_grad():
        logits = [decoder(part, Pass(cache=cache)).values for part in inputs.split(37, dim=1)]
        assert close(torch.cat(logits, dim=1), decoder(inputs).values)
