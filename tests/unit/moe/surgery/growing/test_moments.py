"""A run that grows between two checkpoints, and what trains on."""

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MASTER, MOMENTS
from moe.checkpoint.training import SaveContext, write_training_checkpoint
from moe.config.balance_state import BalanceState
from moe.config.run import RunConfig
from moe.config.tensors import tensors
from moe.errors import CheckpointError
from moe.surgery.growing.moments import expand_checkpoint
from moe.surgery.growing.options import ExpandOptions
from tests import runs, saves, tiny
from tests.ranks import Ranks, pool

FINE = {"epsilon": 1e-10, "clip_norm": 1e9, "learning_rate": 1e-3}
"""AdamW as good as blind to the size of gradients, and gradients as they are."""


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with pool() as started:
        yield started


def written(model: Path, to: Path) -> Path:
    """Write a training checkpoint with random moments; second moments are positive."""
    config = Checkpoint.open(model).config
    whole = saves.Whole.of(config)
    shares = BalanceState(0.01, (0.1, 0.2, 0.3, 0.4), (0.25, 0.25, 0.2, 0.3))
    state = replace(whole.state(), balance=dict.fromkeys(config.moe_layers, shares))
    plan = runs.plan(config, (3,))
    write_training_checkpoint(to, saves.about(config, model, plan, step=7), state)
    return to


@pytest.mark.parametrize("keep", ["top-k", "function"])
def test_moments_and_balance_of_copies_are_those_of_their_parents(
    keep: str, tmp_path: Path
) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    source, to = written(model, tmp_path / "step-00000007"), tmp_path / "more"
    options = ExpandOptions(8, keep=keep)  # type: ignore[arg-type]
    receipt = expand_checkpoint(source, to, options)
    manifest, config = load_manifest(to), Checkpoint.open(to).config
    assert manifest.step == 7
    assert manifest.balance[1].shares == (0.05, 0.1, 0.15, 0.2) * 2
    assert sum(manifest.balance[1].probabilities) == pytest.approx(1.0)
    before, after = Moments.open(source), Moments.open(to)
    olds = {tensor.role: tensor for tensor in tensors(Checkpoint.open(source).config)}
    for tensor in tensors(config):
        role = tensor.role
        if role.expert is not None:
            role = replace(role, expert=role.expert % 4)
        for power, moment in enumerate(MOMENTS, start=1):
            expected = before.read(olds[role], moment)
            if role.part == "router":
                expected = expected.repeat(2, 1)
            if keep == "function" and (role.part == "router" or role.expert is not None):
                expected = expected / 2**power
            assert after.read(tensor, moment).equal(expected), (tensor.name, moment)
    table = json.loads((to / "receipt.json").read_text())
    assert receipt.distance.relative < 1e-5 or keep == "top-k"
    for directory, key in ((source, "source_files"), (to, "files")):
        for name, digest in table[key].items():
            assert sha256((directory / name).read_bytes()).hexdigest() == digest


def test_a_model_without_moments_is_refused(tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    with pytest.raises(CheckpointError, match="no moments to carry over; give a step-"):
        expand_checkpoint(model, tmp_path / "more", ExpandOptions(8))
    assert list(tmp_path.iterdir()) == [model]


def trained(ranks: Ranks, model: Path, run: RunConfig, to: Path, steps: int) -> Path:
    """Train some steps under two stages and save."""
    config = Checkpoint.open(model).config
    team = ranks.started(runs.plan(config, (1, 2)), model, run, runs.LENGTH)
    for step in range(steps):
        team.step(runs.batch(config, run, step))
    return Path(str(team.save(to, SaveContext(config, run, model, "data"), steps)))


def stepped(ranks: Ranks, source: Path, run: RunConfig, to: Path, heads: tuple[int, ...]) -> Path:
    """Resume a checkpoint under a gang, do one step and save."""
    config, step = Checkpoint.open(source).config, load_manifest(source).step
    shared = tuple(config.experts // len(heads) for _ in heads)
    plan = runs.plan(config, (3,), heads, shared)
    team = ranks.started(plan, source, run, runs.LENGTH, resume=True)
    team.step(runs.batch(config, run, step))
    return Path(str(team.save(to, SaveContext(config, run, source, "data"), step + 1)))


@pytest.mark.parametrize("heads", [(3,), (1, 2)])
def test_growing_and_training_commute(heads: tuple[int, ...], ranks: Ranks, tmp_path: Path) -> None:
    """With the function kept, a step after the growth is the growth of a step.

    All of it but the noise of the copies, which is made too small to matter.
    """
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    run = runs.run_config(model, train=FINE)
    options = ExpandOptions(8, keep="function", deviation=1e-6)
    begun = trained(ranks, model, run, tmp_path / "begun", 3)
    expand_checkpoint(begun, tmp_path / "grown", options)
    grown = stepped(ranks, tmp_path / "grown", run, tmp_path / "one", heads)
    other = stepped(ranks, begun, run, tmp_path / "other", heads)
    expand_checkpoint(other, tmp_path / "two", options)
    one, two = Checkpoint.open(grown), Checkpoint.open(tmp_path / "two")
    old = Checkpoint.open(tmp_path / "grown")
    for tensor in tensors(one.config):
        moved = (two.read(tensor) - old.read(tensor)).abs()
        off = (two.read(tensor) - one.read(tensor)).abs()
        assert moved.max() > 1e-4, tensor.name
        assert (off < 0.05 * moved.max()).float().mean() > 0.99, tensor.name


def test_a_bf16_run_grows_from_its_masters(ranks: Ranks, tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    run = runs.run_config(model, train={"precision": "bf16"})
    begun = trained(ranks, model, run, tmp_path / "begun", 2)
    receipt = expand_checkpoint(begun, tmp_path / "grown", ExpandOptions(8, keep="function"))
    assert receipt.distance.relative < 1e-5
    before, after = Moments.open(begun), Checkpoint.open(tmp_path / "grown")
    table = {tensor.name: tensor for tensor in tensors(Checkpoint.open(begun).config)}
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    assert after.read(table[name]).equal(before.read(table[name], MASTER))
    grown = stepped(ranks, tmp_path / "grown", run, tmp_path / "one", (1, 2))
    assert Checkpoint.open(grown).dtype_of(table[name]) == torch.bfloat16
