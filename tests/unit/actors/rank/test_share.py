"""A share among the shares of its gang."""

from dataclasses import replace
from pathlib import Path

import pytest

from actors.deadlines import Deadlines
from actors.engine.serving import ServingEngine
from moe.checkpoint.reader import Checkpoint
from tests import runs, tiny
from tests.ranks import SECONDS, Ranks, Team


@pytest.mark.parametrize(("threads", "unlike"), [((1, 1), False), ((1, 2), True)])
def test_members_whose_devices_round_otherwise_take_the_leader_s_choices(
    threads: tuple[int, int], unlike: bool, ranks: Ranks, tmp_path: Path
) -> None:
    """Each tells the gang what its device is; plans need not know the names of devices."""
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    made = runs.plan(Checkpoint.open(model).config, (3,), (1, 2), (2, 2))
    stage = made.stages[0]
    members = zip(stage.ranks, threads, strict=True)
    held = tuple(replace(rank, threads=count) for rank, count in members)
    plan = replace(made, stages=(replace(stage, ranks=held),))
    crew = ranks.crew(plan.seats)
    ServingEngine.serve(crew, "test", plan, model, Deadlines(group=SECONDS))
    assert Team(crew, plan, None).all("unlike") == [unlike, unlike]
