"""What sources give a rank: a model its weights, a checkpoint also what training had come to."""

import pickle
from pathlib import Path

import pytest
import torch

from actors.state.sources import Blank, CheckpointSource, ModelSource
from moe.checkpoint.reader import Checkpoint
from moe.config.ranges import TensorRange
from moe.config.tensors import tensors
from moe.errors import RankLost
from tests import plans, saves, tiny
from tests.routed import routed


def test_a_model_gives_its_weights_and_no_progress(tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    source = pickle.loads(pickle.dumps(ModelSource(model)))
    opened = source.open()
    assert opened.config == source.config() == Checkpoint.open(model).config
    assert opened.progress is None
    for part in tensors(opened.config):
        assert opened.read_weight(part).equal(Checkpoint.open(model).read(part))


def test_a_checkpoint_gives_steps_balance_and_moments_too(tmp_path: Path) -> None:
    config = routed(layers=2)
    tokenizer = tiny.saved(tiny.mixtral(), tmp_path / "model")
    whole, plan = saves.Whole.of(config), plans.single(config)
    at = saves.write(whole, plan, saves.Cuts(1, 0), tmp_path / "saved", tokenizer, step=4)
    opened = pickle.loads(pickle.dumps(CheckpointSource(at))).open()
    assert opened.config == config
    assert opened.progress is not None
    assert opened.progress.step == 4
    assert tuple(sorted(opened.progress.balance)) == config.moe_layers
    for part in tensors(config):
        assert opened.read_weight(part).equal(whole.weights[part.name])
        if part.role.trained:
            moment = opened.progress.read_moment(TensorRange(part, 1, 3), "exp_avg")
            torch.testing.assert_close(moment, whole.moments[part.name, "exp_avg"].flatten()[1:3])


def test_a_blank_source_tells_of_a_run_and_has_no_values(tmp_path: Path) -> None:
    config = routed(layers=2)
    tokenizer = tiny.saved(tiny.mixtral(), tmp_path / "model")
    whole, plan = saves.Whole.of(config), plans.single(config)
    at = saves.write(whole, plan, saves.Cuts(1, 0), tmp_path / "saved", tokenizer, step=4)
    source = pickle.loads(pickle.dumps(Blank.of(CheckpointSource(at))))
    assert source.config() == config
    opened = source.open()
    assert (opened.blank, opened.progress) == (True, None)
    assert opened.products == CheckpointSource(at).open().products
    with pytest.raises(RankLost, match=r"model.embed_tokens.weight was asked of a rank"):
        opened.read_weight(tensors(config)[0])
