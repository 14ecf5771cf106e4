"""Updates of experts orthogonal to the inputs of others: the algebra, any plan, what is refused."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from actors.step.projectors import learned
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import SaveContext
from moe.config.model import ModelConfig
from moe.config.projectors import PROJECTOR, has_projector, projector_of
from moe.config.run import RunConfig
from moe.config.share import whole
from moe.config.tensors import held_by, tensors
from moe.errors import CheckpointError, ConfigError
from moe.nn.block import MixtureOfExperts
from moe.planning.counts.memory import Position, rank_bytes
from moe.planning.counts.workload import Workload
from tests import agreement, runs, tiny
from tests.examples import examples
from tests.ranks import Ranks, Team
from tests.reference import PlainTraining
from tests.routed import routed

PHASES = {"accumulate": 2, "project": 2, "constant": 0.5}


def run_of(model: Path, **orthogonal: Any) -> RunConfig:
    """Return a run in two phases; an epsilon above rounding, see ``runs.run_config``."""
    train = {"orthogonal": PHASES | orthogonal}
    return runs.run_config(model, train=train, elastic={"copy_every": 0})


@settings(max_examples=examples(30), deadline=None)
@given(size=st.integers(2, 12), inputs=st.integers(1, 10), seed=st.integers(0, 999))
def test_a_projector_is_what_ridge_regression_leaves(size: int, inputs: int, seed: int) -> None:
    """The recursion is Woodbury's: a (a I + X^T X)^-1; near zero, the projection off the inputs."""
    x = torch.randn(inputs, size, generator=torch.Generator().manual_seed(seed)).double()
    for constant in (3.0, 1e-9):
        projector = torch.eye(size, dtype=torch.float64)
        for each in x:
            learned(projector, each, constant)
        if constant == 3.0:
            expected = constant * torch.linalg.inv(constant * torch.eye(size) + x.T @ x)
            assert torch.allclose(projector, expected, atol=1e-9)
    off = torch.eye(size) - torch.linalg.pinv(x, rtol=1e-6) @ x
    if inputs <= size:
        assert torch.allclose(projector, off, atol=1e-3)
        assert torch.allclose(projector @ projector, projector, atol=1e-3), "idempotent"
        assert (x @ projector).abs().max() < 1e-3


class PlainOrthogonal(PlainTraining):
    """Both phases as one process would write them, from what hooks see the experts get."""

    def __init__(self, checkpoint: Path, run: RunConfig) -> None:
        super().__init__(checkpoint, run)
        section = run.train.orthogonal
        assert section is not None
        self.section = section
        self.seen: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        self.projectors: dict[str, Tensor] = {}
        for block in self.decoder.modules():
            if isinstance(block, MixtureOfExperts):
                block.register_forward_pre_hook(self._see)

    def step(self, batch: Any) -> None:
        self.seen.clear()
        old = {name: value.detach().clone() for name, value in self.decoder.named_parameters()}
        means = self._means if not self.section.projects(batch.step) else None
        weights = {name: value.clone() for name, value in old.items()}
        super().step(batch)
        if means is not None:
            means(weights)
        else:
            self._project(old)

    def _see(self, block: MixtureOfExperts, inputs: tuple[Tensor, ...]) -> None:
        x_TD = inputs[0].detach().flatten(0, 1)
        chosen = block.router(x_TD).experts
        for number in block.experts.numbers:
            self.seen[block.layer, number].append(x_TD[(chosen == number).any(dim=1)])

    def _means(self, old: dict[str, Tensor]) -> None:
        for (layer, number), parts in self.seen.items():
            x_TD, name = torch.cat(parts), f"model.layers.{layer}.mlp.experts.{number}."
            if not len(x_TD):
                continue
            gate, up = (old[f"{name}{part}_proj.weight"] for part in ("gate", "up"))
            inner = torch.nn.functional.silu(x_TD @ gate.T) * (x_TD @ up.T)
            for part, values in (("gate", x_TD), ("down", inner)):
                mean = values.double().mean(dim=0).float()
                known = self.projectors.get(f"{name}{part}", torch.eye(len(mean)))
                along = known @ mean
                scale = self.section.constant + mean @ along
                self.projectors[f"{name}{part}"] = known - torch.outer(along, along) / scale

    @torch.no_grad()
    def _project(self, old: dict[str, Tensor]) -> None:
        count = self.decoder.config.experts
        for name, value in self.decoder.named_parameters():
            if ".experts." not in name:
                continue
            prefix, _, rest = name.partition(".experts.")
            number, part = rest.split(".")[0], rest.split(".")[1].removesuffix("_proj")
            kept = "gate" if part == "up" else part
            others = [
                self.projectors.get(f"{prefix}.experts.{n}.{kept}", torch.eye(value.shape[1]))
                for n in range(count)
                if str(n) != number
            ]
            value.copy_(old[name] + (value - old[name]) @ torch.stack(others).mean(dim=0))


def started(ranks: Ranks, model: Path, run: RunConfig, plan: Any, resume: bool = False) -> Team:
    return ranks.started(plan, model, run, runs.LENGTH, resume=resume)


def plans_of(config: ModelConfig) -> dict[str, Any]:
    return {
        "alone": runs.plan(config, (3,)),
        "stages": runs.plan(config, (1, 2)),
        "gang": runs.plan(config, (3,), (1, 2), (1, 3)),
    }


@pytest.mark.parametrize("name", ["alone", "stages", "gang"])
def test_every_plan_computes_what_one_process_does(name: str, ranks: Ranks, tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    run, config = run_of(model), Checkpoint.open(model).config
    plain, team = PlainOrthogonal(model, run), started(ranks, model, run, plans_of(config)[name])
    for step in range(5):
        batch = runs.batch(config, run, step)
        plain.step(batch)
        team.step(batch)
    held = {part.name: value for each in team.held() for part, value in each.weights}
    for key, value in plain.decoder.named_parameters():
        if name != "gang" or held[key].shape == value.shape:
            agreement.close(held[key], value.detach(), key)
    to = team.save(tmp_path / "saved", SaveContext(config, run, model, "data"), 5)
    moments = Moments.open(to)
    for part in tensors(config):
        if has_projector(part):
            found = moments.read(projector_of(part), PROJECTOR)
            expected = plain.projectors[part.name.removesuffix("_proj.weight")]
            agreement.close(found, expected, part.name)


def test_any_plan_resumes_in_the_middle_of_a_phase(ranks: Ranks, tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    run, config = run_of(model), Checkpoint.open(model).config
    context, shapes = SaveContext(config, run, model, "data"), plans_of(config)

    def stepped(team: Team, span: range) -> Team:
        for step in span:
            team.step(runs.batch(config, run, step))
        return team

    team = stepped(started(ranks, model, run, shapes["gang"]), range(3))
    half = Path(str(team.save(tmp_path / "half", context, 3)))
    undisturbed = stepped(team, range(3, 6)).save(tmp_path / "one", context, 6)
    resumed = stepped(started(ranks, half, run, shapes["stages"], resume=True), range(3, 6))
    other = resumed.save(tmp_path / "two", context, 6)
    one, two = (Checkpoint.open(each, load_manifest(each)) for each in (undisturbed, other))
    for part in tensors(config):
        agreement.close(two.read(part), one.read(part), part.name)
    kept = [Moments.open(each) for each in (undisturbed, other)]
    for part in filter(has_projector, tensors(config)):
        values = [each.read(projector_of(part), PROJECTOR) for each in kept]
        agreement.close(*values, part.name)
        assert (values[0] - torch.eye(len(values[0]))).abs().max() > 1e-3


def test_an_update_does_not_touch_what_the_other_expert_is_given(
    ranks: Ranks, tmp_path: Path
) -> None:
    """With two experts, the mean over the others is the projector of the other."""
    model = tiny.saved(tiny.mixtral(num_local_experts=2, num_experts_per_tok=1), tmp_path / "model")
    run, config = run_of(model, constant=1e-7), Checkpoint.open(model).config
    plain, team = PlainOrthogonal(model, run), started(ranks, model, run, runs.plan(config, (3,)))
    inputs: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    for step in range(2):
        plain.step(runs.batch(config, run, step))
        team.step(runs.batch(config, run, step))
        for key, parts in plain.seen.items():
            inputs[key].append(torch.cat(parts).mean(dim=0))
    before = {part.name: value for part, value in team.held()[0].weights}
    team.step(runs.batch(config, run, 2))
    after = {part.name: value for part, value in team.held()[0].weights}
    for layer in range(3):
        for number in range(2):
            name = f"model.layers.{layer}.mlp.experts.{number}.up_proj.weight"
            change = after[name] - before[name]
            own, others = (torch.stack(inputs[layer, n]) for n in (number, 1 - number))
            assert (change @ others.T).norm() < 1e-2 * (change @ own.T).norm()


def test_the_planner_counts_the_projectors() -> None:
    config = routed()
    assert config.moe is not None
    share, work = whole(config), Workload(16, 1, 1)
    plain = rank_bytes(config, share, Position(), work)
    found = rank_bytes(config, share, Position(), replace(work, orthogonal=True))
    squares = config.hidden_size**2 + config.moe.expert_size**2
    more = 4 * len(config.moe_layers) * config.experts * squares
    assert found.optimizer - plain.optimizer == more
    assert found.total - plain.total == more
    half = replace(share, experts=(0, 1))
    assert sum(has_projector(part) for part in held_by(config, half)) == 2 * 2 * config.layers


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"plan": {"replicas": 2}}, r"does not go with plan\.replicas above 1: remove"),
        ({"elastic": {"copy_every": "auto"}}, r"elastic\.copy_every other than 0"),
        ({"elastic": {"copy_every": 0, "rebalance_every": 5}}, r"elastic\.rebalance_every"),
        ({"train": {"orthogonal": {"accumulate": 0}}}, "greater than 0"),
    ],
)
def test_what_would_cut_or_move_projectors_is_refused(
    sections: dict[str, Any], message: str, tmp_path: Path
) -> None:
    table = {"train": {"orthogonal": PHASES}, "elastic": {"copy_every": 0}} | sections
    with pytest.raises(ConfigError, match=message):
        runs.run_config(tmp_path, **table)


def test_a_model_without_other_experts_is_refused(tmp_path: Path) -> None:
    dense = tiny.saved(tiny.llama(), tmp_path / "dense")
    run = runs.run_config(
        dense, train={"orthogonal": PHASES}, elastic={"copy_every": 0}, balance={}
    )
    with pytest.raises(ConfigError, match=r"has 0 experts in a layer, .* needs 2"):
        run.check_model(Checkpoint.open(dense).config)


def test_a_checkpoint_without_its_projectors_is_not_complete(ranks: Ranks, tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    config = Checkpoint.open(model).config
    plain = runs.run_config(model, elastic={"copy_every": 0})
    team = started(ranks, model, plain, plans_of(config)["alone"])
    team.step(runs.batch(config, plain, 0))
    with pytest.raises(CheckpointError, match="projector is missing: no piece of it was saved"):
        team.save(tmp_path / "saved", SaveContext(config, run_of(model), model, "data"), 1)
