"""Any plan resumes the checkpoint of any other, and a damaged checkpoint is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.engine.reports import merge
from moe.checkpoint.manifest import checkpoints, load_manifest, step_directory
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import SaveContext
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.config.tensors import tensors
from moe.errors import CheckpointError, RankLost
from moe.planning.plan.file import load_plan
from tests import exports, plans, runs, tiny
from tests.examples import examples
from tests.ranks import Ranks, Team
from tests.reference import PlainTraining
from tests.routed import routed

FAST = settings(
    max_examples=examples(6),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def checkpoint(team: Team, to: Path, config: ModelConfig, run: RunConfig, step: int) -> Path:
    team.save(to, SaveContext(config, run, run.model.path, "data"), step)
    return to


@FAST
@given(data=st.data())
def test_any_plan_resumes_the_checkpoint_of_any_other(
    data: st.DataObject, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    tied = data.draw(st.booleans())
    if data.draw(st.booleans()):
        merged = routed(top_k=1, expert_size=40, segment_tokens=5, dense_layers=(1,))
        model = exports.export(replace(merged, tie_embeddings=tied), folder / "model")
    else:
        model = tiny.saved(tiny.mixtral(tie_word_embeddings=tied), folder / "model")
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    small = plans.plans(config).filter(lambda plan: plan.ranks <= 4)
    first, second = data.draw(small), data.draw(small)
    plain = PlainTraining(model, run)
    batches = [runs.batch(config, run, step) for step in range(4)]
    for batch in batches:
        plain.step(batch)
    losses = []
    team = ranks.started(first, model, run, runs.LENGTH)
    losses += [merge(team.step(batch), batch.label_count, 0.0).loss for batch in batches[:2]]
    saved = checkpoint(team, folder / "saved", config, run, 2)
    team = ranks.started(second, saved, run, runs.LENGTH, resume=True)
    losses += [merge(team.step(batch), batch.label_count, 0.0).loss for batch in batches[2:]]
    assert losses == pytest.approx(plain.losses, rel=1e-5)
    again = checkpoint(team, folder / "again", config, run, 4)
    coefficients = load_manifest(again).coefficients
    assert coefficients == pytest.approx(plain.alphas, rel=1e-5)
    assert load_plan(again / "plan.toml") == second


@pytest.mark.parametrize(
    ("options", "sections"),
    [
        ({}, {"balance": {"scope": "global-batch", "coefficient": {"beta": 0.5}}}),
        (
            {"score": "sigmoid", "balance_bias": True},
            {"balance": {"loss": "switch", "scope": "global-batch"}}
            | {"balance": {"coefficient": {"type": "bias", "rate": 0.01, "value": 0.1}}},
        ),
        ({"hashed": True, "top_k": 1, "dense_layers": (0,)}, {}),
        ({"segment_tokens": 5, "top_k": 1, "expert_size": 40, "dense_layers": (0,)}, {}),
    ],
)
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(
    options: dict[str, Any], sections: dict[str, Any], ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(**options)
    model = exports.export(config, tmp_path / "model")
    run = RunConfig.model_validate(runs.run_config(model).model_dump() | {"balance": {}} | sections)
    plan = runs.plan(config, (2, 1), (2, 1), (1, 3))
    batches = [runs.batch(config, run, step) for step in range(4)]
    team = ranks.started(plan, model, run, runs.LENGTH)
    for batch in batches[:2]:
        team.step(batch)
    saved = checkpoint(team, tmp_path / "saved", config, run, 2)
    undisturbed = [team.step(batch) for batch in batches[2:]]
    end = checkpoint(team, tmp_path / "end", config, run, 4)
    team = ranks.started(plan, saved, run, runs.LENGTH, resume=True)
    resumed = [team.step(batch) for batch in batches[2:]]
    again = checkpoint(team, tmp_path / "again", config, run, 4)
    for before, after in zip(undisturbed, resumed, strict=True):
        assert [report.loss for report in after] == [report.loss for report in before]
        assert [report.layers for report in after] == [report.layers for report in before]
    assert load_manifest(again).balance == load_manifest(end).balance
    for file in sorted(end.rglob("*.safetensors")):
        assert (again / file.relative_to(end)).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("tied", [True, False])
def test_rows_and_placement_of_one_plan_resume_under_those_of_another(
    tied: bool, ranks: Ranks, tmp_path: Path
) -> None:
    model = tiny.saved(tiny.mixtral(tie_word_embeddings=tied), tmp_path / "model")
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    split = runs.splitting(runs.plan(config, (1, 2), (2, 1), (2, 2)), (90, 7))
    series = [
        runs.placing(split, {1: ((3,), (0, 1, 2)), 2: ((), (0, 1, 2, 3))}),
        runs.recomputing(
            runs.splitting(runs.plan(config, (3,), (1, 1, 1), (1, 2, 1)), (5, 60, 32)), (0, 1)
        ),
        runs.placing(runs.plan(config, (2, 1), (1, 2), (1, 3)), {0: ((1, 2), (0, 3))}),
        split,
    ]
    plain, at, losses = PlainTraining(model, run), model, []
    for step, plan in enumerate(series):
        batch = runs.batch(config, run, step)
        plain.step(batch)
        team = ranks.started(plan, at, run, runs.LENGTH, resume=step > 0)
        losses.append(merge(team.step(batch), batch.label_count, 0.0).loss)
        at = checkpoint(team, tmp_path / f"after-{step}", config, run, step + 1)
        assert load_plan(at / "plan.toml") == plan
    assert losses == pytest.approx(plain.losses, rel=1e-5)
    weights, moments = Checkpoint.open(at), Moments.open(at)
    expected = dict(plain.decoder.named_parameters())
    for tensor in tensors(config):
        parameter = expected[tensor.name]
        torch.testing.assert_close(weights.read(tensor), parameter.detach(), rtol=1e-4, atol=1e-6)
        second = moments.read(tensor, "exp_avg_sq")
        theirs = plain.adam.state[parameter]["exp_avg_sq"]
        torch.testing.assert_close(second, theirs, rtol=1e-3, atol=1e-8)


def test_the_bias_is_saved_with_the_weights_and_has_no_moments(
    ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(score="sigmoid", balance_bias=True)
    model = exports.export(config, tmp_path / "model")
    coefficient = {"type": "bias", "rate": 0.25}
    run = runs.run_config(model, balance={"loss": "skywork", "coefficient": coefficient})
    team = ranks.started(runs.plan(config, (2, 1), (2, 1), (1, 3)), model, run, runs.LENGTH)
    report = merge(team.step(runs.batch(config, run, 0)), 1, 0.0)
    saved = checkpoint(team, tmp_path / "saved", config, run, 1)
    weights, moments = Checkpoint.open(saved), Moments.open(saved)
    for layer in range(3):
        name = f"model.layers.{layer}.mlp.router.balance_bias"
        tensor = next(t for t in tensors(config) if t.name == name)
        moved = weights.read(tensor) - Checkpoint.open(model).read(tensor)
        load = torch.tensor(report.layers[layer].load).float()
        torch.testing.assert_close(moved, 0.25 * (load.mean() - load).sign())
        with pytest.raises(CheckpointError):
            moments.read(tensor, "exp_avg")


@pytest.fixture
def saved(ranks: Ranks, tmp_path: Path) -> Path:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    team = ranks.started(runs.plan(config, (1, 2)), model, run, runs.LENGTH)
    return checkpoint(team, step_directory(tmp_path, 0), config, run, 0)


def test_a_checkpoint_before_the_first_step_is_the_model(saved: Path) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(saved)
    before = transformers.AutoModelForCausalLM.from_pretrained(saved.parent / "model")
    inputs = tiny.tokens(97, 1, 8)
    assert theirs(inputs).logits.equal(before(inputs).logits)


@pytest.mark.parametrize("victim", ["model-rank-00001", "optimizer/rank-00000"])
def test_a_truncated_file_is_named(victim: str, saved: Path) -> None:
    file = saved / f"{victim}.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=f"{victim}.safetensors has .* its manifest says"):
        load_manifest(saved)


@pytest.mark.parametrize("moments", [False, True])
def test_one_flipped_byte_in_one_expert_stops_the_resume(
    moments: bool, saved: Path, ranks: Ranks
) -> None:
    manifest = load_manifest(saved)
    name = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    file, key = manifest.tensors[name].file, name
    if moments:
        piece = next(each for each in manifest.pieces if each.name == name)
        file, key = piece.file, piece.key
    raw = bytearray((saved / file).read_bytes())
    length = int.from_bytes(raw[:8], "little")
    begin, _ = json.loads(raw[8 : 8 + length])[key]["data_offsets"]
    raw[8 + length + begin + 5] ^= 4
    (saved / file).write_bytes(raw)
    model = saved.parent / "model"
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    with pytest.raises(CheckpointError, match=rf"{re.escape(key)} in .*{file} is damaged"):
        ranks.started(runs.plan(config, (2, 1)), saved, run, runs.LENGTH, resume=True)


def test_a_config_edited_after_the_save_is_named_by_the_ranks_that_resume(
    saved: Path, ranks: Ranks
) -> None:
    """As when a run begins again after a kill: at equal length, so that no size tells."""
    model = saved.parent / "model"
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    text = (saved / "config.json").read_text()
    assert '"num_experts_per_tok": 2' in text
    (saved / "config.json").write_text(
        text.replace('"num_experts_per_tok": 2', '"num_experts_per_tok": 1')
    )
    with pytest.raises(CheckpointError, match=f"{saved}/config.json has changed since"):
        ranks.started(runs.plan(config, (2, 1)), saved, run, runs.LENGTH, resume=True)


def test_a_directory_without_manifest_is_no_checkpoint(saved: Path) -> None:
    assert checkpoints(saved.parent) == [saved]
    (saved / "raymoe.json").unlink()
    assert checkpoints(saved.parent) == []


def test_a_step_out_of_order_is_refused(ranks: Ranks, tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    team = ranks.started(runs.plan(config, (3,)), model, run, runs.LENGTH)
    with pytest.raises(RankLost, match="has done 0 steps, step 5 was asked for"):
        team.step(runs.batch(config, run, 5))
