"""A bf16 run: bfloat16 weights, float32 masters. It learns what float32 learns, under any plan."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from actors.commands import StepInput
from actors.engine.reports import merge
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MASTER, MOMENTS
from moe.checkpoint.training import SaveContext
from moe.checkpoint.universal.reader import UniversalCheckpoint
from moe.checkpoint.universal.writer import AdamSettings
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.config.sampling import Sampling
from moe.config.tensors import tensors
from moe.planning.plan.plan import Plan
from moe.surgery.deepspeed import export_universal
from moe.surgery.initialise import initialise
from moe.surgery.trained import TrainingCheckpoint
from tests import agreement, batches, runs, tiny
from tests.ranks import Ranks, Team
from tests.reference import PlainTraining
from tests.routed import routed
from tests.training import stepped

GATED = {"gate_norm": 1.0, "shared_size": 11, "shared_gate": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as training begins with it, in float32."""
    path = tmp_path_factory.mktemp("precision") / "model"
    initialise(routed(2, **GATED, renormalise=False), path, seed=0)
    return path


def config_of(model: Path) -> ModelConfig:
    return Checkpoint.open(model).config


def run_of(model: Path, precision: str = "bf16", **train: object) -> RunConfig:
    return runs.run_config(model, train={"precision": precision, "global_batch": 8, **train})


def one_rank(model: Path) -> Plan:
    return runs.plan(config_of(model), (2,))


def gangs(model: Path) -> Plan:
    """Return two stages of two ranks each."""
    return runs.plan(config_of(model), (1, 1), (2, 1), (1, 3))


def replicas(model: Path) -> Plan:
    """Return two stages, twice."""
    return runs.repeated(runs.plan(config_of(model), (1, 1)), 2)


def batch_of(run: RunConfig, step: int) -> StepInput:
    """Return one of three batches, so that there is something to learn."""
    return replace(runs.batch(config_of(run.model.path), run, step % 3), step=step)


def saved(team: Team, to: Path, step: int) -> Path:
    assert team.run is not None
    path = team.run.model.path
    return team.save(to, SaveContext(config_of(path), team.run, path, "data"), step)


def exact(team: Team) -> dict[str, Tensor]:
    """Return every weight in float32, put together from the masters that ranks own."""
    found: dict[str, Tensor] = {}
    for held in team.held():
        for part, weight in held.weights:
            whole = found.setdefault(part.name, torch.full(part.shape, torch.nan))
            if weight.dtype == torch.float32:
                agreement.cut(whole, part).copy_(weight)
        for part, elements, owned in held.owned:
            if MASTER in owned:
                own = agreement.cut(found[part.name], part)
                flat = own.flatten()
                flat[elements] = owned[MASTER]
                own.copy_(flat.view(own.shape))
    assert not any(weight.isnan().any() for weight in found.values())
    return found


def test_fifty_steps_lose_what_float32_loses(model: Path, ranks: Ranks) -> None:
    plain = PlainTraining(model, run_of(model, "fp32", steps=50, micro_batch=8))
    team = ranks.started(
        one_rank(model), model, run_of(model, steps=50, micro_batch=8), runs.LENGTH
    )
    for step in range(50):
        batch = batch_of(plain.run, step)
        plain.step(batch)
        loss = merge(team.step(batch), batch.label_count, 0.0).loss
        assert loss == pytest.approx(plain.losses[-1], rel=2e-3)
        assert loss != plain.losses[-1]
    assert plain.losses[-1] < plain.losses[0] - 0.5


def logprob(team: Team) -> float:
    """Have the ranks of one replica generate a token and return its log-probability."""
    team.all("answer_as", batches.HOW)
    step = team.all("status")[0].step
    batch = replace(batches.fed((5, 17, 3), sampling=Sampling(logprobs=0)), step=step)
    return batches.drawn(team.all("infer", batch)).logprob


def test_any_plan_learns_and_generates_the_same(model: Path, ranks: Ranks) -> None:
    """Not to the bit: parts of a gang are rounded before they add up."""
    run = run_of(model)
    found, generated = [], []
    for plan in (replicas(model), one_rank(model), gangs(model)):
        team = ranks.started(plan, model, run, runs.LENGTH)
        found.append([stepped(team, step) for step in range(2)])
        agreement.check_same_bits(team.held())
        if plan.replicas == 1:
            generated.append(logprob(team))
    assert generated[0] == pytest.approx(generated[1], abs=1e-2)
    for theirs, *others in zip(*found, strict=True):
        for ours in others:
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
            assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-2)


def test_a_checkpoint_goes_on_to_the_bit_and_any_plan_reads_its_masters(
    model: Path, ranks: Ranks, tmp_path: Path
) -> None:
    run = run_of(model)
    team = ranks.started(replicas(model), model, run, runs.LENGTH)
    for step in range(2):
        stepped(team, step)
    before, at = exact(team), saved(team, tmp_path / "saved", 2)
    expected, after = stepped(team, 2), exact(team)
    again = ranks.started(replicas(model), at, run, runs.LENGTH, resume=True)
    agreement.check_same(exact(again), before)
    assert stepped(again, 2).loss == expected.loss
    agreement.check_same(exact(again), after)
    one = ranks.started(one_rank(model), at, run, runs.LENGTH, resume=True)
    agreement.check_same(exact(one), before)
    for held in one.held():
        for part, weight in held.weights:
            assert weight.equal(before[part.name].to(weight.dtype))


def test_what_a_checkpoint_holds_and_who_reads_it(
    model: Path, ranks: Ranks, tmp_path: Path
) -> None:
    """Matrices in bfloat16, each with its master; norms, biases and gates in float32 alone."""
    team = ranks.started(replicas(model), model, run_of(model), runs.LENGTH)
    stepped(team, 0)
    at, values = saved(team, tmp_path / "saved", 1), exact(team)
    manifest, checkpoint = load_manifest(at), Checkpoint.open(at)
    kinds: dict[str, set[str]] = {}
    for piece in manifest.pieces:
        assert piece.dtype == "F32"
        kinds.setdefault(piece.name, set()).add(piece.moment)
    for tensor in tensors(config_of(model)):
        gate = tensor.name.endswith(("router.weight", "shared_gate.weight"))
        narrow = len(tensor.shape) > 1 and not gate
        name, value = disk_name("raymoe", tensor.name), values[tensor.name]
        assert manifest.tensors[name].dtype == ("BF16" if narrow else "F32")
        assert kinds[name] == ({*MOMENTS, MASTER} if narrow else set(MOMENTS))
        assert checkpoint.read(tensor).equal(value.to(checkpoint.dtype_of(tensor)))
        assert narrow == (not checkpoint.read(tensor).float().equal(value))


def test_transformers_loads_the_weights_and_deepspeed_is_given_the_masters(
    ranks: Ranks, tmp_path: Path
) -> None:
    first = tiny.saved(tiny.mixtral(), tmp_path / "model")
    config = config_of(first)
    team = ranks.started(runs.plan(config, (3,)), first, run_of(first), runs.LENGTH)
    stepped(team, 0)
    at = saved(team, tmp_path / "saved", 1)
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        at, dtype="auto", output_loading_info=True
    )
    assert {key: value for key, value in found.items() if value} == {}
    assert model.dtype == torch.bfloat16
    values = exact(team)
    expected = values["model.embed_tokens.weight"].bfloat16()
    assert model.get_input_embeddings().weight.equal(expected)
    settings, out = AdamSettings(1e-3, (0.9, 0.95), 1e-8), tmp_path / "universal"
    export_universal(TrainingCheckpoint.open(at), out, settings, "tensor", lambda *_: None)
    exported = UniversalCheckpoint.open(out, config)
    for parameter, part in exported.parts():
        assert exported.read(parameter, part).equal(values[part.tensor.name])


def test_precision_may_change_between_runs(model: Path, ranks: Ranks, tmp_path: Path) -> None:
    """A float32 run takes the masters as its weights; a bf16 run float32 weights as its masters."""
    plan, narrow, wide = one_rank(model), run_of(model), run_of(model, "fp32")
    team = ranks.started(plan, model, narrow, runs.LENGTH)
    stepped(team, 0)
    values, at = exact(team), saved(team, tmp_path / "narrow", 1)
    team = ranks.started(plan, at, wide, runs.LENGTH, resume=True)
    agreement.check_same(exact(team), values)
    stepped(team, 1)
    values, at = exact(team), saved(team, tmp_path / "wide", 2)
    assert all(stored.dtype == "F32" for stored in load_manifest(at).tensors.values())
    team = ranks.started(plan, at, narrow, runs.LENGTH, resume=True)
    agreement.check_same(exact(team), values)
    assert all(
        weight.equal(values[part.name].to(weight.dtype))
        for held in team.held()
        for part, weight in held.weights
    )
    stepped(team, 2)


def test_masters_begin_with_every_digit_of_the_model(model: Path, ranks: Ranks) -> None:
    team = ranks.started(one_rank(model), model, run_of(model), runs.LENGTH)
    checkpoint = Checkpoint.open(model)
    expected = {part.name: checkpoint.read(part) for part in tensors(checkpoint.config)}
    agreement.check_same(exact(team), expected)
