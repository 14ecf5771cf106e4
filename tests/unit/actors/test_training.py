"""Ranks under any plan train like one process: loss, norm, weights, moments, coefficients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.engine import merge
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.plan import Plan
from tests import plans, runs, tiny
from tests.ranks import Ranks
from tests.reference import PlainTraining

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
    assert sorted(report.layers) == (list(range(config.layers)) if config.moe else [])
    check_saved(team, plain, directory.parent / f"saved-{plan.ranks}-{steps}")


def check_saved(team: Any, plain: PlainTraining, directory: Path) -> None:
    (directory / "optimizer").mkdir(parents=True)
    answers = team.all("save", directory)
    coefficients = {layer: alpha for _, held in answers for layer, alpha in held.items()}
    if plain.decoder.config.moe:
        assert coefficients == pytest.approx(plain.alphas, rel=TOLERANCE)
    weights, moments = read_all(directory), read_all(directory / "optimizer")
    expected = dict(plain.decoder.named_parameters())
    assert len(weights) == len(expected)
    assert len(moments) == 2 * len(expected)
    for name, parameter in expected.items():
        on_disk = disk(plain.decoder.config.family, name)
        state = plain.adam.state[parameter]
        assert_close(weights[on_disk], parameter.detach(), name)
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


@pytest.mark.parametrize("policy", ["probability", "position"])
def test_capacity_drops_the_same_tokens(policy: str, ranks: Ranks, tmp_path: Path) -> None:
    directory, config = saved_model(tmp_path, "mixtral")
    run = runs.run_config(directory, routing={"capacity_factor": 0.8, "drop_policy": policy})
    check_equal(ranks, directory, run, runs.plan(config, (1, 2), (2, 1), (2, 2)), 4)


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
