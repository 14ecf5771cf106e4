"""A living run changes its plan by command: actors that stay keep their processes."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.journal import JOURNAL, read
from cluster.session import Session
from cluster.stands import Stands, stands_in
from moe.config.run import RunConfig
from moe.errors import ClusterError
from pipelines.commands.app import app
from pipelines.corpus.shards import TokenShards
from pipelines.deploying.run_there import RunThere
from pipelines.training.batches import batches
from pipelines.training.recording import recorded_steps
from tests import material
from tests.driven import once, pids, trained
from tests.reference import PlainTraining

pytestmark = pytest.mark.ray

STEPS = 200
PYTHON = f"env PYTHONPATH={Path(__file__).parents[2]} {sys.executable}"
"""What the image has: this source tree."""


def scale(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["scale", *arguments])


def stands(run: RunConfig) -> Stands:
    """Return how a run says that it stands, and that this changes nothing."""
    result = scale(run.name, "--stands")
    assert result.exit_code == 0, result.exception
    return stands_in(result.output.splitlines())


def check_curve(run: RunConfig, steps: int) -> None:
    """Compare so many steps of the journal with one process."""
    plain = PlainTraining(run.model.path, run)
    records = recorded_steps(run.checkpoint.path)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    shards = TokenShards.open(run.data.path, "train")
    for record, batch in zip(records[:steps], batches(run, shards, 0), strict=False):
        plain.step(batch)
        assert record["loss"] == pytest.approx(plain.losses[-1], abs=1e-5)


@pytest.mark.long
def test_a_run_goes_from_one_replica_to_two_and_back(ray_session: Session, tmp_path: Path) -> None:
    table = {"train": {"global_batch": 8}}
    run = material.run(material.make(tmp_path), tmp_path / "run", STEPS, 0, table)
    lines, seen = list[str](), list[list[int]]()

    def act() -> None:
        seen.append(pids(run, 2))
        for replicas, told in (("2", "2 actors kept, 2 new, 0 ended"), ("1", "2 ended")):
            result = scale(run.name, "--replicas", replicas)
            assert result.exit_code == 0, result.exception
            assert told in " ".join(result.output.split())
            there = stands(run)
            assert (there.replicas, there.stages, there.gang) == (int(replicas), 2, 1)
            assert len(there.nodes) == 1  # the session has one node
            seen.append(pids(run, 2 * int(replicas)))
        refused = scale(run.name, "--replicas", "9")
        assert refused.exit_code == 1
        assert "9 replicas" in str(refused.exception)

    trained(run, on_step=once(3, act), tell=lines.append)
    before, two, after = seen
    assert two[:2] == before == after
    resized = [
        each for each in read(run.checkpoint.path / JOURNAL) if each.get("event") == "resized"
    ]
    assert [each["changed"] for each in resized] == [True, True, False]
    assert resized[0]["bytes"] > 0
    check_curve(run, resized[1]["boundary"] + 5)
    assert len([line for line in lines if line.startswith("resized after step")]) == 2


def test_a_run_that_is_not_there_has_no_plan_to_change(ray_session: Session) -> None:
    result = scale("nobody", "--replicas", "2")
    assert result.exit_code == 1
    assert "no run named nobody" in str(result.exception)


def test_a_run_is_asked_by_a_job_from_outside_of_its_cluster(jobs_url: str) -> None:
    with pytest.raises(ClusterError, match="no run named nobody is on this cluster"):
        RunThere("nobody", jobs_url, PYTHON).stands()
