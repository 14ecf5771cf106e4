"""Runs that train a part of their model, or factors beside it: saved, resumed, healed, resized."""

import signal
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors import safe_open
from torch import Tensor

from actors.engine.reports import merge
from actors.engine.resizing import Resized
from actors.state.sources import Blank
from actors.state.tuned import TunedSource
from actors.step.optimizer import learning_rate
from moe.checkpoint.adapters.ours import cut, places
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import SaveContext
from moe.config.ranges import whole_range
from moe.config.run import RunConfig, parse_run, tuned_model
from moe.config.tensors import saved, tensors
from moe.errors import CheckpointError, RankLost
from moe.planning.plan.plan import Plan
from moe.surgery.adapter import export_adapter
from moe.surgery.initialise import initialise
from tests import lora, runs, tiny
from tests.agreement import check_same_bits
from tests.agreement import cut as cut_of
from tests.healed import HealedRun, at, signalled, unharmed
from tests.ranks import Ranks, Team, single_threaded
from tests.routed import routed

FACTORS = {"rank": 2, "alpha": 4.0, "targets": ["attention", "experts", "router"]}
TRAINS: dict[str, dict[str, Any]] = {
    "lora": {"lora": FACTORS},
    "freeze": {"freeze": ["model.embed_tokens.*", "model.layers.0.*", "*.experts.1.*"]},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "model"
    initialise(routed(3, gate_norm=1.0), path, seed=0)
    return path


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with its tensors in bfloat16."""
    path = tmp_path_factory.mktemp("tuned") / "narrow"
    initialise(routed(3, gate_norm=1.0), path, seed=0, dtype=torch.bfloat16)
    return path


def run_of(model: Path, tuning: str, **train: Any) -> RunConfig:
    own = {"copy_every": 2, "hang_seconds": 20.0, "max_failures": 99}
    sections = {"elastic": own, "cluster": {"group_seconds": 20.0}}
    return runs.run_config(model, train=TRAINS[tuning] | train, **sections)


def plan_of(model: Path, layers: tuple[int, ...], heads: tuple[int, ...] = (3,)) -> Plan:
    config, rest = Checkpoint.open(model).config, len(heads) - 1
    experts = (config.experts - rest, *(1 for _ in range(rest)))
    return single_threaded(runs.plan(config, layers, heads, experts))


def save(team: Team, to: Path, step: int) -> Path:
    run = team.run
    assert run is not None
    config = tuned_model(run, Checkpoint.open(run.model.path).config)
    return team.save(to, SaveContext(config, run, run.model.path, "data"), step)


def stepped(team: Team, *steps: int) -> list[float]:
    run = team.run
    assert run is not None
    config = Checkpoint.open(run.model.path).config
    batches = [runs.batch(config, run, step) for step in steps]
    return [merge(team.step(batch), batch.label_count, 0.0).loss for batch in batches]


def raw(directory: Path) -> dict[str, Tensor]:
    """Return all tensors of the weights in a directory, in the types in which they are stored."""
    found = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("tuning", TRAINS)
def test_any_plan_goes_on_from_the_checkpoint_of_another(
    tuning: str, ranks: Ranks, model: Path, tmp_path: Path
) -> None:
    run = run_of(model, tuning)
    whole = ranks.started(plan_of(model, (3,)), model, run, runs.LENGTH)
    expected = stepped(whole, 0, 1, 2, 3)
    first = runs.repeated(plan_of(model, (2, 1)), 2)
    team = ranks.started(first, model, run, runs.LENGTH)
    losses = stepped(team, 0, 1)
    at_two = save(team, tmp_path / "two", 2)
    team = ranks.started(plan_of(model, (1, 2), (2, 1)), at_two, run, runs.LENGTH, resume=True)
    losses += stepped(team, 2, 3)
    assert losses == pytest.approx(expected, rel=1e-5)
    check_same_bits(team.held())
    config = tuned_model(run, Checkpoint.open(model).config)
    stored = load_manifest(at_two).tensors
    assert stored.keys() == raw(at_two).keys()
    assert len(stored) == len(list(saved(config)))
    moved = {name.rpartition(".exp_avg")[0] for name in raw(at_two / "optimizer")}
    assert moved
    assert not any(each.name in moved for each in tensors(config) if each.role.frozen)
    if tuning == "lora":
        with pytest.raises(CheckpointError, match=r"\[train.lora\] trained beside its model"):
            Checkpoint.open(at_two)


@pytest.mark.parametrize(
    ("stored", "precision"), [("model", "fp32"), ("model", "bf16"), ("narrow", "fp32")]
)
def test_frozen_tensors_keep_every_byte_in_every_precision(
    stored: str, precision: str, ranks: Ranks, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(stored)
    run = run_of(source, "freeze", precision=precision)
    team = ranks.started(plan_of(source, (2, 1), (2, 1)), source, run, runs.LENGTH)
    stepped(team, 0, 1)
    at_two = save(team, tmp_path / "two", 2)
    config, before, after = (
        tuned_model(run, Checkpoint.open(source).config),
        raw(source),
        raw(at_two),
    )
    names = Checkpoint.open(at_two, load_manifest(at_two)).config
    assert names == Checkpoint.open(source).config
    for part in tensors(config):
        name = disk_name(config.family, part.name)
        same = before[name].dtype == after[name].dtype and before[name].equal(after[name])
        assert same == part.role.frozen, name
    team = ranks.started(plan_of(source, (3,)), at_two, run, runs.LENGTH, resume=True)
    again = save(team, tmp_path / "again", 2)
    assert {n: v.dtype for n, v in raw(again).items()} == {n: v.dtype for n, v in after.items()}


@pytest.mark.parametrize("tuning", TRAINS)
def test_a_killed_rank_comes_back_and_a_resize_moves_what_is_trained(
    tuning: str, ranks: Ranks, model: Path
) -> None:
    run, plan, other = run_of(model, tuning), plan_of(model, (2, 1)), plan_of(model, (3,), (2, 1))
    expected = HealedRun.begun(ranks, plan, run).go(unharmed)
    held = expected.tensors()
    done = HealedRun.begun(ranks, plan, run).go(at(3, signalled(signal.SIGKILL, 0)))
    assert len(done.healed) == 1
    assert done.losses == expected.losses
    for found, wanted in zip(done.tensors(), held, strict=True):
        assert found.equal(wanted)
    changed = HealedRun.begun(ranks, plan, run).go(at(3, lambda run: run.wish(other)))
    (resized,) = changed.resized
    assert isinstance(resized, Resized)
    assert changed.losses == pytest.approx(expected.losses, rel=1e-5)


def test_a_lost_rank_is_replaced_by_fewer_that_read_its_frozen_part(
    ranks: Ranks, model: Path
) -> None:
    run, plan = run_of(model, "lora"), plan_of(model, (2, 1))
    expected = HealedRun.begun(ranks, plan, run).go(unharmed)
    hurt = HealedRun.begun(ranks, plan, run)
    hurt.crew.full = True
    hurt.smaller = lambda shrink, lost: plan_of(model, (3,))
    hurt.go(at(3, signalled(signal.SIGKILL, 0)))
    assert [type(each) for each in hurt.resized] == [Resized]
    assert hurt.losses == pytest.approx(expected.losses, rel=1e-5)


def test_a_new_rank_reads_what_is_frozen_and_nothing_else(model: Path) -> None:
    source = TunedSource(run_of(model, "freeze"))
    opened = Blank.of(source).open()
    for part in tensors(source.config()):
        if part.role.frozen:
            assert opened.read_weight(part).equal(Checkpoint.open(model).read(part))
    assert opened.blank
    with pytest.raises(RankLost):
        opened.read_master(whole_range(tensors(opened.config)[-1]))


@pytest.mark.parametrize(
    ("family", "modules", "parameters", "targets"),
    [
        ("llama", [*lora.ATTENTION], [], ["attention"]),
        (
            "mixtral",
            ["q_proj", "k_proj", "v_proj", "o_proj"],
            [*lora.STACKED, *lora.ROUTER],
            ["attention", "experts", "router"],
        ),
    ],
)
def test_the_curve_is_that_of_a_loop_with_peft(
    family: str,
    modules: list[str],
    parameters: list[str],
    targets: list[str],
    ranks: Ranks,
    tmp_path: Path,
) -> None:
    path = tiny.saved(tiny.model(family), tmp_path / "model")
    options = {"target_modules": modules, "target_parameters": parameters}
    adapter = lora.adapter(path, tmp_path / "adapter", **options)
    section = {"rank": 4, "alpha": 6.0, "targets": targets, "start": str(adapter)}
    table = runs.run_config(path, train={"lora": section}).model_dump(mode="json")
    run = parse_run(table | {"balance": {"coefficient": {"type": "fixed", "value": 0.0}}}, "test")
    config = Checkpoint.open(path).config
    team = ranks.started(
        runs.plan(config, (2, 1), (2, 1), (3, 1) if parameters else None), path, run, runs.LENGTH
    )
    found = stepped(team, *range(6))
    with lora.quiet():
        base = transformers.AutoModelForCausalLM.from_pretrained(path)
        theirs = peft.PeftModel.from_pretrained(base, adapter, is_trainable=True).train()
    assert found == pytest.approx(plain(theirs, run, 6), rel=2e-5)
    factors = {name: each.detach() for name, each in theirs.named_parameters()}
    tuned = tuned_model(run, config)
    for held in team.held():
        for part, weight in held.weights:
            if part.role.factor is None:
                continue
            place = places(tuned)[part.name]
            key = place.key.replace(".weight", ".default.weight")
            whole = cut(place, factors[key], 4)
            own = cut_of(whole, part)
            torch.testing.assert_close(weight, own, atol=2e-5, rtol=1e-4)


def plain(theirs: Any, run: RunConfig, steps: int) -> list[float]:
    """Return the losses of a loop in torch over a model of peft."""
    trained = [each for each in theirs.parameters() if each.requires_grad]
    train, losses = run.train, []
    adam = torch.optim.AdamW(
        trained,
        betas=(train.beta1, train.beta2),
        eps=train.epsilon,
        weight_decay=train.weight_decay,
    )
    config = Checkpoint.open(run.model.path).config
    for step in range(steps):
        batch = runs.batch(config, run, step)
        assert batch.tokens is not None
        assert batch.labels is not None
        logits = theirs(torch.from_numpy(batch.tokens).long()).logits
        labels = torch.from_numpy(batch.labels).long()
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, train.clip_norm)
        for group in adam.param_groups:
            group["lr"] = learning_rate(train, step)
        adam.step()
        losses.append(loss.item())
    return losses


def test_an_adapter_of_a_checkpoint_is_what_another_run_starts_from(
    ranks: Ranks, tmp_path: Path
) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    run = run_of(model, "lora")
    team = ranks.started(plan_of(model, (2, 1), (2, 1)), model, run, runs.LENGTH)
    stepped(team, 0, 1)
    export_adapter(save(team, tmp_path / "two", 2), tmp_path / "adapter")
    start = {"lora": FACTORS | {"start": str(tmp_path / "adapter")}}
    held = {part.name: weight for each in team.held() for part, weight in each.weights}
    again = ranks.started(plan_of(model, (3,)), model, run_of(model, "lora", **start), runs.LENGTH)
    (whole,) = again.held()
    for part, weight in whole.weights:
        if part.role.factor is not None and held[part.name].shape == weight.shape:
            assert weight.equal(held[part.name])
    prompt = tiny.tokens(90, 1, 9)[0].tolist()
    with_adapter = lora.Adapted(model, tmp_path / "adapter").logits(prompt)
    assert not torch.allclose(with_adapter, lora.Adapted(model, None).logits(prompt))
