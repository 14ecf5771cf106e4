"""A rank of this process: what the plan says of its layers is what runs."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from actors.commands import BuildCommand
from actors.rank.rank import Rank
from actors.state.sources import ModelSource, Opened
from actors.step.reduction import Reduction
from moe.checkpoint.reader import Checkpoint
from moe.errors import DataError, OutOfMemory, PlanError, RankLost
from moe.nn.block import Block
from tests import exports, runs, tiny, waits
from tests.alone import alone, join, rank_of_this_process
from tests.ranks import SECONDS, Ranks
from tests.routed import routed

ROOT = Path(__file__).parents[4]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path / "model")


@pytest.fixture
def rank(model: Path) -> Iterator[Rank]:
    with alone(model, runs.run_config(model)) as rank:
        yield rank


def test_only_the_plan_s_layers_run_twice(rank: Rank, model: Path) -> None:
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    passes: Counter[nn.Module] = Counter()

    def count(module: nn.Module, *_: Any) -> None:
        if isinstance(module, Block):
            passes[module] += 1

    handle = register_module_forward_hook(count)
    try:
        rank.train_step(runs.batch(config, run, 0))
    finally:
        handle.remove()
    once = run.train.micro_batches
    assert list(passes.values()) == [2 * once, once, 2 * once]


def test_a_step_that_failed_half_updated_is_not_done_again(
    rank: Rank, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW would move twice what has moved already."""
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    rank.train_step(runs.batch(config, run, 0))
    with monkeypatch.context() as patch:
        patch.setattr(Reduction, "spread", lambda self: 1 / 0)
        with pytest.raises(RankLost, match="failed during step 1: division by zero"):
            rank.train_step(runs.batch(config, run, 1))
    join(rank, 2)
    assert (rank.status().step, rank.status().torn) == (1, True)
    with pytest.raises(RankLost, match=r"rank 0 failed when step 1 was half done; .* checkpoint"):
        rank.train_step(runs.batch(config, run, 1))


def test_a_step_that_failed_before_its_update_is_done_again(
    rank: Rank, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    with monkeypatch.context() as patch:
        patch.setattr(Reduction, "finish", lambda self: 1 / 0)
        with pytest.raises(RankLost, match="failed during step 0: division by zero"):
            rank.train_step(runs.batch(config, run, 0))
    assert not rank.status().joined
    assert not rank.status().torn
    join(rank, 2)
    assert rank.train_step(runs.batch(config, run, 0)).step == 1


def test_a_snapshot_is_of_the_step_that_was_asked_for(
    rank: Rank, model: Path, tmp_path: Path
) -> None:
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    rank.train_step(runs.batch(config, run, 0))
    with pytest.raises(RankLost, match=r"done 1 steps, a snapshot after 0 was asked for"):
        rank.snapshot(0)
    rank.snapshot(1)
    assert rank.status().saving == 1
    with pytest.raises(RankLost, match=r"a snapshot after step 1, that of 2 was to be written"):
        rank.write(tmp_path, 2)


def test_a_batch_with_an_unknown_token_is_refused_before_a_layer_runs(
    rank: Rank, model: Path
) -> None:
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    batch = runs.batch(config, run, 0)
    assert batch.tokens is not None
    batch.tokens[1, 2] = config.vocab_size
    told = rf"^token {config.vocab_size} is not in the vocabulary of {config.vocab_size} tokens"
    with pytest.raises(DataError, match=told):
        rank.train_step(batch)
    assert not rank.status().torn


def test_a_rank_that_cannot_join_leaves_the_groups_that_it_has_met(model: Path) -> None:
    run = runs.run_config(model, train={"schedule": "zbv"})
    with pytest.raises(PlanError, match="zbv has 2 chunks a stage"), alone(model, run):
        pass
    assert not dist.is_initialized()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_weights_that_do_not_fit_are_told_with_what_was_predicted(
    error: Exception, model: Path
) -> None:
    class Full(ModelSource):
        """A model whose weights find no memory."""

        def open(self) -> Opened:
            raise error

    plan = runs.plan(Checkpoint.open(model).config, (3,))
    command = BuildCommand(plan, plan.seats.seat(0), runs.LENGTH, runs.run_config(model))
    told = r"^rank 0 failed during building: (CUDA out|MemoryError).*planner predicts 0\.\d+ GB"
    with pytest.raises(OutOfMemory, match=told):
        rank_of_this_process().build(command, Full(model))


def test_a_rank_says_its_seat_and_the_number_of_the_seat_once_it_is_built(model: Path) -> None:
    plan, rank = runs.plan(Checkpoint.open(model).config, (1, 2)), rank_of_this_process(7)
    assert (rank.status().rank, rank.status().seat) == (7, None)
    seat = plan.seats.seat(1)
    rank.build(BuildCommand(plan, seat, runs.LENGTH), ModelSource(model))
    assert (rank.status().rank, rank.status().seat) == (1, seat)


def test_a_failure_frees_neighbours_of_neighbours_at_once(ranks: Ranks, model: Path) -> None:
    """The last of three stages gets no labels; the first waits for the second, that for it."""
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    team = ranks.started(runs.plan(config, (1, 1, 1)), model, run, runs.LENGTH)
    batch = runs.batch(config, run, 0)
    started = time.time()
    with pytest.raises(RankLost):
        team.each("train_step", [(batch,), (batch,), (replace(batch, labels=None),)])
    ended = time.time()
    assert ended - started < SECONDS / 3
    assert all(started < status.freed <= time.time() for status in team.all("settled"))


@pytest.mark.parametrize(
    ("scope", "precision"), [("micro-batch", "bf16"), ("global-batch", "fp32")]
)
def test_a_step_waits_for_its_device_twice(scope: str, precision: str, tmp_path: Path) -> None:
    """For the norm of the gradients and for the account, whatever the layers are; then for
    nothing until its weights have arrived.
    """
    config = routed(score="sigmoid", balance_bias=True)
    model = exports.export(config, tmp_path / "model")
    balance = {"coefficient": {"type": "bias", "rate": 0.01, "value": 0.1}, "scope": scope}
    sections = {"balance": balance | {"loss": "switch"}, "train": {"precision": precision}}
    run = runs.run_config(model, **sections)
    with alone(model, run) as rank:
        for step in range(2):
            with waits.counted() as found:
                rank.train_step(runs.batch(config, run, step))
    assert found == {
        ("_local_scalar_dense", "actors/step/training.py"): 1,
        ("tolist", "actors/step/training.py"): 1,
    }


def test_weights_and_moments_stand_still_until_a_step_holds_its_update_back(
    rank: Rank, model: Path
) -> None:
    """A GPU may copy them until then."""
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    trainer = rank._state.share.trainer
    assert trainer is not None
    rank.train_step(runs.batch(config, run, 0))

    def held() -> list[Tensor]:
        moments = [m.clone() for s in trainer.optimizer.states() for m in s.moments.values()]
        weights = rank._state.share.decoder.parameters()
        return moments + [weight.detach().clone() for weight in weights]

    seen: list[Tensor] = []
    before = held()
    trainer.step(runs.batch(config, run, 1), lambda: seen.extend(held()))
    assert all(one.equal(other) for one, other in zip(seen, before, strict=True))
    assert not any(one.equal(other) for one, other in zip(held(), before, strict=True))


def test_a_warm_process_imports_nothing_heavy_in_its_first_step(model: Path) -> None:
    """Not torch's compiler, a second and 74 MB, and not its symbolic shapes, half a second."""
    code = (
        "import sys, pathlib\n"
        "from tests import runs\n"
        "from tests.alone import alone\n"
        "from moe.checkpoint.reader import Checkpoint\n"
        "model = pathlib.Path(sys.argv[1])\n"
        "run = runs.run_config(model)\n"
        "from actors.rank.imports import import_late\n"
        "import_late()\n"
        "warm = {*sys.modules}\n"
        "with alone(model, run) as rank:\n"
        "    rank.train_step(runs.batch(Checkpoint.open(model).config, run, 0))\n"
        "heavy = ('torch._dynamo', 'torch.fx', 'sympy')\n"
        "print([name for name in sys.modules if name not in warm and name.startswith(heavy)])\n"
    )
    command = [sys.executable, "-c", code, str(model)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout.splitlines()[-1] == "[]"
