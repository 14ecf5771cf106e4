"""Ranks under any plan train like one process: loss, norm, weights, moments, coefficients."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.commands import StepReport
from actors.engine import merge
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.plan import Plan
from tests import exports, plans, runs, tiny
from tests.ranks import Ranks
from tests.reference import PlainTraining
from tests.routed import routed

TOLERANCE = 1e-5


def saved_model(path: Path, kind: str, **changes: Any) -> tuple[Path, ModelConfig]:
    model = tiny.mixtral(**changes) if kind == "mixtral" else tiny.llama(**changes)
    directory = tiny.saved(model, path / "model")
    return directory, Checkpoint.open(directory).config


def check_equal(ranks: Ranks, directory: Path, run: RunConfig, plan: Plan, steps: int) -> None:
    """Train both ways; compare every step's report and the weights and moments at the end."""
    config = Checkpoint.open(directory).config
    plain = PlainTraining(directory, run)
    team = ranks.started(plan, directory, run, runs.LENGTH)
    for step in range(steps):
        batch = runs.batch(config, run, step)
        plain.step(batch)
        report = merge(team.step(batch), batch.label_count, 0.0)
        assert report.loss == pytest.approx(plain.losses[-1], rel=TOLERANCE)
        assert report.gradient_norm == pytest.approx(plain.norms[-1], rel=TOLERANCE)
        for layer, rate in plain.drop_rates.items():
            assert report.layers[layer].drop_rate == pytest.approx(rate, abs=1e-6)
        check_losses(report, plain, run)
    assert tuple(sorted(report.layers)) == config.moe_layers
    check_saved(team, plain, directory.parent / f"saved-{plan.ranks}-{steps}")


def check_losses(report: StepReport, plain: PlainTraining, run: RunConfig) -> None:
    """Compare what is reported of the losses on routers."""
    for layer, found in report.layers.items():
        assert found.z_loss == near(plain.extras["z"].get(layer))
        assert found.device_loss == near(plain.extras["device"].get(layer))
        if run.balance.scope == "global-batch":
            assert found.balance_loss == near(plain.balance_losses[layer])


def near(value: float | None) -> Any:
    return None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)


def check_saved(team: Any, plain: PlainTraining, directory: Path) -> None:
    (directory / "optimizer").mkdir(parents=True)
    answers = team.all("save", directory)
    states = {layer: state for _, held in answers for layer, state in held.items()}
    assert {k: s.coefficient for k, s in states.items()} == pytest.approx(plain.alphas)
    for layer, state in states.items():
        seen = plain.before[layer]
        assert state.shares == pytest.approx(seen.shares.tolist())
        assert state.probabilities == pytest.approx(seen.means.tolist(), rel=1e-4, abs=1e-6)
    weights, moments = read_all(directory), read_all(directory / "optimizer")
    expected = dict(plain.decoder.named_parameters())
    assert len(weights) == len(expected)
    trained = {name: p for name, p in expected.items() if p.requires_grad}
    assert len(moments) == 2 * len(trained)
    for name, parameter in expected.items():
        on_disk = disk(plain.decoder.config.family, name)
        assert_close(weights[on_disk], parameter.detach(), name)
        if name not in trained:
            continue
        state = plain.adam.state[parameter]
        for moment in ("exp_avg", "exp_avg_sq"):
            assert_close(moments[f"{on_disk}.{moment}"], state[moment], f"{name} {moment}")


def read_all(directory: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors = load_file(file)
        assert not found.keys() & tensors.keys()
        found |= tensors
    return found


def disk(family: str, name: str) -> str:
    from moe.checkpoint.names import disk_name

    return disk_name(family, name)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, name: str) -> None:
    gap = (ours - theirs).abs().max()
    assert gap <= 1e-4 * theirs.abs().max() + 1e-9, (name, gap)


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
    check_equal(ranks, directory, run, runs.plan(config, layers, heads, experts), 20)


@pytest.mark.parametrize("layers", [(3,), (2, 1)])
def test_dense_models_train_in_gangs(layers: tuple[int, ...], ranks: Ranks, tmp_path: Path) -> None:
    directory, config = saved_model(tmp_path, "llama", attention_bias=True, mlp_bias=True)
    run = runs.run_config(directory)
    check_equal(ranks, directory, run, runs.plan(config, layers, (2, 1)), 4)


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
    check_equal(ranks, directory, runs.run_config(directory), plan, 5)


def test_untied_ends_may_split_the_vocabulary_unlike(ranks: Ranks, tmp_path: Path) -> None:
    directory, config = saved_model(tmp_path, "llama", tie_word_embeddings=False)
    plan = runs.plan(config, (1, 2), (2, 1))
    first, last = (runs.splitting(plan, rows).stages for rows in ((1, 96), (50, 47)))
    run = runs.run_config(directory)
    check_equal(ranks, directory, run, replace(plan, stages=(first[0], last[1])), 3)


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
        (to / "optimizer").mkdir(parents=True)
        team.all("save", to)
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
    check_equal(ranks, directory, run, runs.plan(config, (1, 2), (2, 1), (2, 2)), 4)


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
    check_equal(ranks, directory, run, runs.plan(config, (2, 1), (2, 1), experts), 4)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), seed=st.integers(0, 99))
def test_any_plan_equals_one_process(
    data: st.DataObject, seed: int, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory, config = saved_model(
        tmp_path_factory.mktemp("any"),
        "mixtral",
        seed=seed,
        num_hidden_layers=data.draw(st.integers(1, 4)),
        num_local_experts=data.draw(st.integers(2, 5)),
        tie_word_embeddings=data.draw(st.booleans()),
    )
    plan = data.draw(plans.plans(config).filter(lambda plan: plan.ranks <= 4))
    check_equal(ranks, directory, runs.run_config(directory), plan, 3)


def test_bfloat16_computes_close_and_keeps_float32_weights(ranks: Ranks, tmp_path: Path) -> None:
    directory, config = saved_model(tmp_path, "mixtral")
    exact = runs.run_config(directory)
    half = runs.run_config(directory, train={"precision": "bf16"})
    plain = PlainTraining(directory, exact)
    team = ranks.started(runs.plan(config, (1, 2), (2, 1), (2, 2)), directory, half, runs.LENGTH)
    for step in range(3):
        batch = runs.batch(config, half, step)
        plain.step(batch)
        loss = merge(team.step(batch), batch.label_count, 0.0).loss
        assert loss == pytest.approx(plain.losses[-1], rel=0.03)
        assert loss != plain.losses[-1]
    (tmp_path / "half" / "optimizer").mkdir(parents=True)
    team.all("save", tmp_path / "half")
    assert {weight.dtype for weight in read_all(tmp_path / "half").values()} == {torch.float32}
