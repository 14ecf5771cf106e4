"""Gradients to their owners as other backends than gloo send them, with each torch's own names."""

from pathlib import Path

import pytest

from actors.device import GLOO, NCCL
from moe.checkpoint.reader import Checkpoint
from tests import agreement, runs, tiny
from tests.ranks import Ranks
from tests.reference import PlainTraining
from tests.training import stepped


def test_reduced_to_each_owner_under_both_names_of_torch_s_functions(
    ranks: Ranks, tmp_path: Path
) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    plan = runs.repeated(runs.plan(Checkpoint.open(model).config, (3,)), 2)
    run = runs.run_config(model)
    team, plain = ranks.started(plan, model, run, runs.LENGTH), PlainTraining(model, run)
    config = Checkpoint.open(model).config
    for step, hidden in enumerate([(), ("reduce_scatter_single", "all_gather_single")]):
        team.all("name_backend", NCCL, hidden)
        plain.step(runs.batch(config, run, step))
        assert stepped(team, step).loss == pytest.approx(plain.losses[-1], rel=1e-5)
    team.all("name_backend", GLOO)
    agreement.check_held(team, plain)
