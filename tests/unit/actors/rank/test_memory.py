"""What is told of the memory of a rank that found none left."""

from dataclasses import replace
from pathlib import Path

import pytest

from actors.commands import BuildCommand
from actors.rank.memory import predicted_bytes, remedy
from actors.state.sources import ModelSource
from moe.checkpoint.reader import Checkpoint
from moe.planning.counts.fixed import CONTEXT_BYTES, HOST_PROCESS_BYTES, WORKSPACE_BYTES
from moe.planning.plan.plan import Plan
from tests import runs, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


def on_gpus(plan: Plan) -> Plan:
    stages = (
        replace(stage, ranks=tuple(replace(rank, kind="H200") for rank in stage.ranks))
        for stage in plan.stages
    )
    return replace(plan, stages=tuple(stages))


def test_the_memory_of_a_gpu_is_told_and_not_that_of_its_host(model: Path) -> None:
    plan = on_gpus(runs.plan(Checkpoint.open(model).config, (3,)))
    command = BuildCommand(plan, plan.seats.seat(0), runs.LENGTH, runs.run_config(model))
    size = predicted_bytes(command, ModelSource(model).config())
    assert CONTEXT_BYTES + WORKSPACE_BYTES < size < HOST_PROCESS_BYTES


def test_a_rank_that_serves_is_told_of_its_prompts(model: Path) -> None:
    plan = runs.plan(Checkpoint.open(model).config, (3,))
    command = BuildCommand(plan, plan.seats.seat(0), 0)
    assert remedy(command, ModelSource(model).config).startswith(
        "send shorter prompts, or make a plan"
    )
