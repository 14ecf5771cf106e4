"""What is written has the forms that every ZeRO stage asks for, and reads back bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.universal.parameters import Parameter, parameters
from moe.checkpoint.universal.reader import UniversalCheckpoint
from moe.checkpoint.universal.writer import AdamSettings, StepKind, UniversalWriter
from moe.errors import CheckpointError
from tests import tiny
from tests.universal import moment

SETTINGS = AdamSettings(lr=0.25, betas=(0.5, 0.75), eps=1e-3)


def states_of(model: Any, each: Parameter) -> dict[str, Tensor]:
    weight = dict(model.named_parameters())[each.name].detach()
    moments = {kind: moment(each.name, kind, weight) for kind in ("exp_avg", "exp_avg_sq")}
    return {"fp32": weight, **moments}


@pytest.mark.parametrize("kind", ["tensor", "integer"])
def test_written_and_read_again_nothing_has_changed(kind: StepKind, tmp_path: Path) -> None:
    model = tiny.mixtral()
    config = Checkpoint.open(tiny.saved(model, tmp_path / "model")).config
    writer = UniversalWriter(tmp_path / "out", 5, kind)
    found = parameters(config, stacked=True)
    for each in found:
        writer.write(each, states_of(model, each).__getitem__)
    writer.finish(SETTINGS, sequences=40)
    again = UniversalCheckpoint.open(tmp_path / "out", config)
    assert again.step == 5
    for parameter, part in again.parts():
        for state, value in states_of(model, parameter).items():
            assert again.read(parameter, part, state).equal(part.of(value))
    tag = tmp_path / "out" / "global_step5_universal"
    common = torch.load(tag / "zero" / "optimizer_state.pt", weights_only=True)
    assert len(common["param_groups"]) == len(found)
    adam = {"params": [], "lr": 0.25, "betas": (0.5, 0.75), "eps": 1e-3}
    assert all(group == adam for group in common["param_groups"])
    assert common["optimizer_state_dict"]["param_groups"] == common["param_groups"]
    step = common["optimizer_state_dict"]["state"][0]["step"]
    assert isinstance(step, Tensor if kind == "tensor" else int)
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"):
        table = torch.load(tag / name, weights_only=True)
        assert (table["global_steps"], table["global_samples"]) == (5, 40)


def test_a_checkpoint_that_was_not_finished_is_refused(tmp_path: Path) -> None:
    model = tiny.llama()
    config = Checkpoint.open(tiny.saved(model, tmp_path / "model")).config
    writer = UniversalWriter(tmp_path / "out", 5, "tensor")
    for each in parameters(config, stacked=False):
        writer.write(each, states_of(model, each).__getitem__)
    with pytest.raises(CheckpointError, match="universal checkpoint is incomplete"):
        UniversalCheckpoint.open(tmp_path / "out" / "global_step5_universal", config)


def test_a_parameter_must_come_whole(tmp_path: Path) -> None:
    model = tiny.llama()
    config = Checkpoint.open(tiny.saved(model, tmp_path / "model")).config
    writer = UniversalWriter(tmp_path / "out", 5, "tensor")
    each = parameters(config, stacked=False)[0]
    states = states_of(model, each)
    short = states | {"exp_avg": states["exp_avg"][:-1]}
    with pytest.raises(CheckpointError, match=r"exp_avg of model.embed_tokens.weight has shape"):
        writer.write(each, short.__getitem__)
