"""A directory read and computed by us meets the papers' formulas, gradients included."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.config.json_file import read_json
from moe.config.model import ModelConfig, MoeConfig
from moe.nn.build import build
from tests import architectures, formulas, tiny
from tests.examples import examples
from tests.exports import export, random_tensors

INPUTS = tiny.tokens(20, 2, 7)
SIZES: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 12,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "head_size": 4,
    "ffn_size": 9,
    "norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_positions": 64,
    "tie_embeddings": False,
}


@pytest.mark.parametrize("family", architectures.FAMILIES)
@settings(max_examples=examples(25), derandomize=True)
@given(data=st.data())
def test_logits_and_gradients_are_the_formulas(
    family: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = data.draw(architectures.FAMILIES[family])
    compare(config, data.draw(st.integers(0, 99)), tmp_path_factory.mktemp(family))


@pytest.mark.parametrize("seed", range(3))
def test_sigmoid_scores_of_normalised_logits(seed: int, tmp_path: Path) -> None:
    """Of many experts: where two logits are nearly equal, both scores round to 1."""
    moe = MoeConfig(16, 3, 5, gate_norm=1.0, score="sigmoid", balance_bias=True)
    compare(ModelConfig("raymoe", **SIZES, moe=moe), seed, tmp_path)


def compare(config: ModelConfig, seed: int, path: Path) -> None:
    family = config.family
    export(config, path, seed)
    checkpoint = Checkpoint.open(path)
    decoder = build(checkpoint.config, checkpoint.read)
    exact = {
        name: tensor.double().requires_grad_()
        for name, tensor in random_tensors(config, seed).items()
    }
    expected = formulas.logits(read_json(path / "config.json"), exact, INPUTS)
    found = decoder(INPUTS).values
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    for logits in (found, expected):
        logits.log_softmax(dim=-1)[..., 0].sum().backward()
    gradients = {name: tensor.grad for name, tensor in exact.items()}
    floor = 1e-5 * max(grad.abs().max().item() for grad in gradients.values() if grad is not None)
    for name, parameter in decoder.named_parameters():
        if parameter.requires_grad:
            assert_alike(name, parameter.grad, gradients[disk_name(family, name)], floor)


def assert_alike(name: str, found: Tensor | None, expected: Tensor | None, floor: float) -> None:
    """An expert that nobody chose has no gradient on either side."""
    assert (found is None) == (expected is None), name
    if found is not None and expected is not None:
        apart = (found - expected).abs().max()
        assert apart <= 1e-4 * expected.abs().max() + floor, (name, apart)
