"""Ranks of one pipeline train like one process, with every option of routing and balance."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from actors.engine.reports import merge
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from tests import exports, runs, tiny
from tests.ranks import Ranks, Team
from tests.routed import routed
from tests.training import train_both


def written(team: Team, to: Path, step: int) -> None:
    """Let all ranks write what they hold after a step."""
    to.mkdir()
    team.all("snapshot", step)
    team.all("write", to, step)


def saved_model(path: Path, kind: str, **changes: Any) -> tuple[Path, ModelConfig]:
    model = tiny.mixtral(**changes) if kind == "mixtral" else tiny.llama(**changes)
    directory = tiny.saved(model, path / "model")
    return directory, Checkpoint.open(directory).config


def read_all(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors = load_file(file)
        assert not found.keys() & tensors.keys()
        found |= tensors
    return found


@pytest.mark.parametrize(
    ("layers", "heads", "experts"),
    [
        ((3,), (3,), (4,)),
        ((1, 2), (3,), (4,)),
        ((1, 1, 1), (3,), (4,)),
        ((3,), (2, 1), (1, 3)),
        ((2, 1), (1, 2), (3, 1)),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_twenty_steps_equal_one_process(
    layers: tuple[int, ...],
    heads: tuple[int, ...],
    experts: tuple[int, ...],
    tied: bool,
    ranks: Ranks,
    tmp_path: Path,
) -> None:
    directory, config = saved_model(tmp_path, "mixtral", tie_word_embeddings=tied)
    run = runs.run_config(directory)
    train_both(ranks, directory, run, runs.plan(config, layers, heads, experts), 20)


@pytest.mark.parametrize("layers", [(3,), (2, 1)])
def test_dense_models_train_in_gangs(layers: tuple[int, ...], ranks: Ranks, tmp_path: Path) -> None:
    directory, config = saved_model(tmp_path, "llama", attention_bias=True, mlp_bias=True)
    run = runs.run_config(directory)
    train_both(ranks, directory, run, runs.plan(config, layers, (2, 1)), 4)


ROWS = (61, 36)
ELSEWHERE = {0: ((3, 1), (0, 2)), 2: ((), (2, 3, 0, 1))}


@pytest.mark.parametrize("layers", [(3,), (2, 1), (1, 1, 1)])
@pytest.mark.parametrize("tied", [True, False])
def test_split_vocabulary_recomputation_and_placement_by_layer(
    layers: tuple[int, ...], tied: bool, ranks: Ranks, tmp_path: Path
) -> None:
    directory, config = saved_model(tmp_path, "mixtral", tie_word_embeddings=tied)
    gang = ((2, 1), (3, 1)) if len(layers) < 3 else ((3,), (4,))
    plan = runs.recomputing(runs.plan(config, layers, *gang), (0, 2))
    if plan.gang_size == 2:
        plan = runs.placing(runs.splitting(plan, ROWS), ELSEWHERE)
    train_both(ranks, directory, runs.run_config(directory), plan, 5)


def test_untied_ends_may_split_the_vocabulary_unlike(ranks: Ranks, tmp_path: Path) -> None:
    directory, config = saved_model(tmp_path, "llama", tie_word_embeddings=False)
    plan = runs.plan(config, (1, 2), (2, 1))
    first, last = (runs.splitting(plan, rows).stages for rows in ((1, 96), (50, 47)))
    run = runs.run_config(directory)
    train_both(ranks, directory, run, replace(plan, stages=(first[0], last[1])), 3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_that_run_again_train_to_the_same_bits(
    precision: str, ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(shared_size=11, shared_gate=True, dense_layers=(1,))
    directory = exports.export(config, tmp_path / "model")
    run = runs.run_config(directory, train={"precision": precision}, balance={"z_loss": 0.1})
    plan = runs.splitting(runs.plan(config, (2, 1), (2, 1), (1, 3)), ROWS)
    found = []
    for layers in ((), (0, 2), (0, 1, 2)):
        team = ranks.started(runs.recomputing(plan, layers), directory, run, runs.LENGTH)
        reports = [team.step(runs.batch(config, run, step)) for step in range(3)]
        to = tmp_path / f"saved-{len(layers)}"
        written(team, to, 3)
        told = [[(r.loss, r.gradient_norm, r.layers) for r in step] for step in reports]
        found.append((told, read_all(to), read_all(to / "optimizer")))
    for told, *saved in found[1:]:
        assert told == found[0][0]
        for tensors, expected in zip(saved, found[0][1:], strict=True):
            assert tensors.keys() == expected.keys()
            assert all(tensors[name].equal(tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("policy", ["probability", "position"])
def test_capacity_drops_the_same_tokens(policy: str, ranks: Ranks, tmp_path: Path) -> None:
    directory, config = saved_model(tmp_path, "mixtral")
    run = runs.run_config(directory, routing={"capacity_factor": 0.8, "drop_policy": policy})
    train_both(ranks, directory, run, runs.plan(config, (1, 2), (2, 1), (2, 2)), 4)


BIASED = {"score": "sigmoid", "balance_bias": True, "groups": 2, "top_groups": 1, "scale": 2.5}
SHARED = {"shared_size": 11, "shared_gate": True, "dense_layers": (1,), "renormalise": False}
STRONG = {"coefficient": {"type": "fixed", "value": 0.5}}


@pytest.mark.parametrize(
    ("options", "sections"),
    [
        ({}, {"balance": {"z_loss": 0.1}}),
        ({"experts": 5}, {"balance": {"device_loss": 0.5, "device_groups": 2}}),
        ({}, {"balance": STRONG | {"scope": "sequence", "loss": "skywork"}}),
        ({"score": "sigmoid"}, {"balance": STRONG | {"scope": "sequence", "loss": "switch"}}),
        ({}, {"balance": STRONG | {"scope": "global-batch", "loss": "skywork"}}),
        (
            {"softmax_after": True},
            {
                "balance": STRONG
                | {"scope": "global-batch", "device_loss": 0.5, "device_groups": 2},
                "routing": {"capacity_factor": 0.8},
            },
        ),
        (BIASED, {"balance": {"coefficient": {"type": "bias", "rate": 0.05}}}),
        (BIASED | {"groups": 1}, {"balance": {"coefficient": {"type": "bias", "value": 0.1}}}),
        ({}, {"routing": {"choose": "experts"}, "balance": {"z_loss": 0.1}}),
        (SHARED | {"scale": 2.0}, {"routing": {"choose": "experts", "capacity_factor": 0.7}}),
        ({}, {"routing": {"capacity_factor": 0.8, "reweigh": False}}),
        ({"top_k": 1, "hashed": True}, {}),
        ({"top_k": 1, "segment_tokens": 5, "expert_size": 40}, {}),
        (
            {"top_k": 1, "segment_tokens": 20, "expert_size": 40, "first_segment": "own"},
            {},
        ),
        (
            {"top_k": 1, "hashed": True} | SHARED | {"renormalise": True},
            {"routing": {"capacity_factor": 0.9}},
        ),
        (SHARED, {}),
        (SHARED | {"shared_gate": False, "scale": 2.5}, {"balance": {"z_loss": 0.01}}),
    ],
)
def test_every_option_of_routing_equals_one_process(
    options: dict[str, Any], sections: dict[str, Any], ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(**options)
    directory = exports.export(config, tmp_path / "model")
    table = runs.run_config(directory).model_dump() | {"balance": {}}
    run = RunConfig.model_validate(table | sections)
    run.check_model(config)
    experts = (1, config.experts - 1)
    train_both(ranks, directory, run, runs.plan(config, (2, 1), (2, 1), experts), 4)


@pytest.mark.parametrize(("layers", "heads"), [((1,), (3,)), ((1,), (2, 1)), ((1, 1), (3,))])
def test_a_step_in_which_no_label_counts(
    layers: tuple[int, ...], heads: tuple[int, ...], ranks: Ranks, tmp_path: Path
) -> None:
    """The loss is 0 and no gradient comes of it; the run goes on as if it had not been."""
    directory, config = saved_model(tmp_path, "llama", num_hidden_layers=sum(layers))
    run = runs.run_config(directory, train={"weight_decay": 0.0})
    team = ranks.started(runs.plan(config, layers, heads), directory, run, runs.LENGTH)
    full = runs.batch(config, run, 0)
    assert full.labels is not None
    empty = replace(full, labels=full.labels * 0 - 100, label_count=0)
    report = merge(team.step(empty), 0, 0.0)
    assert (report.loss, report.gradient_norm, report.tokens) == (0.0, 0.0, 0)
    written(team, tmp_path / "saved", 1)
    before = load_file(directory / "model.safetensors")
    for name, weight in read_all(tmp_path / "saved").items():
        assert torch.equal(weight, before[name])
    assert merge(team.step(replace(full, step=1)), full.label_count, 0.0).loss > 1
