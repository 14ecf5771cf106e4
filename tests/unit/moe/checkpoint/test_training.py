"""A checkpoint that one process writes is one that a run resumes and transformers loads."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.checkpoint.manifest import checkpoints, load_manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MOMENTS
from moe.checkpoint.training import WholeState, write_training_checkpoint
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, tensors
from moe.errors import CheckpointError
from tests import plans, saves, tiny
from tests.examples import examples

FAST = settings(max_examples=examples(15))


@FAST
@given(config=saves.models(), limit=st.integers(100, 5000))
def test_every_tensor_is_read_back(
    config: ModelConfig, limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("one")
    whole = saves.Whole.of(config)
    about = saves.about(config, folder, plans.single(config))
    to = folder / "step-00000003"
    write_training_checkpoint(to, about, whole.state(), limit)
    assert checkpoints(folder) == [to]
    manifest = load_manifest(to)
    assert (manifest.step, manifest.balance) == (3, whole.state().balance)
    checkpoint, moments = Checkpoint.open(to, manifest), Moments.open(to)
    for tensor in tensors(config):
        assert checkpoint.read(tensor).equal(whole.weights[tensor.name])
        for moment in MOMENTS if tensor.role.trained else ():
            read = moments.read(tensor, moment)
            assert read.shape == tensor.shape
            assert read.equal(whole.moments[tensor.name, moment])


def test_transformers_loads_it(tmp_path: Path) -> None:
    model = Checkpoint.open(tiny.saved(tiny.mixtral(), tmp_path / "model"))
    about = saves.about(model.config, tmp_path / "model", plans.single(model.config))
    to = tmp_path / "trained"
    state = WholeState(model.read, lambda tensor, moment: torch.zeros(tensor.shape), {})
    write_training_checkpoint(to, about, state)
    before = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    after = transformers.AutoModelForCausalLM.from_pretrained(to)
    inputs = tiny.tokens(97, 1, 8)
    assert after(inputs).logits.equal(before(inputs).logits)


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    small = replace(plans.SMOLLM2, hidden_size=18, layers=1, vocab_size=20, ffn_size=8)
    config = plans.with_experts(small, 2)
    whole = saves.Whole.of(config)
    about = saves.about(config, tmp_path, plans.single(config))

    def wrong(tensor: TensorSlice, moment: str) -> torch.Tensor:
        value = whole.moment(tensor, moment)
        return value[:1] if tensor.name.endswith("experts.1.up_proj.weight") else value

    with pytest.raises(
        CheckpointError, match=r"experts\.1\.w3\.weight\.exp_avg\[0:144\], \(144,\)"
    ):
        write_training_checkpoint(tmp_path / "to", about, replace(whole.state(), moment=wrong))
    assert list(tmp_path.iterdir()) == []
