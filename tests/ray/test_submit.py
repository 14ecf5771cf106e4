"""`raymoe submit`: a run as a Ray job, from the source tree to its checkpoint."""

import sys
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobSubmissionClient

from moe.checkpoint.manifest import checkpoints
from moe.checkpoint.reader import Checkpoint
from moe.config.run import parse_run
from moe.errors import ClusterError
from moe.planning.plan.file import save_plan
from pipelines.deploying.submit import Target, submit_run
from pipelines.training.recording import recorded_steps
from tests import material, runs

pytestmark = pytest.mark.ray


def test_a_run_trains_as_a_job(jobs_url: str, tmp_path: Path) -> None:
    table = material.run_table(material.make(tmp_path / "material"), tmp_path / "run", steps=6)
    lines: list[str] = []
    config = Checkpoint.open(tmp_path / "material" / "model").config
    save_plan(runs.plan(config, (2, 1)), tmp_path / "plan.toml")
    table |= {"name": "job", "plan": {"path": str(tmp_path / "plan.toml")}}
    run = parse_run(table, "test")
    assert submit_run(run, Target(jobs_url, sys.executable), lines.append) == "SUCCEEDED"
    assert any("step 6/6" in line for line in lines)
    assert [path.name for path in checkpoints(run.checkpoint.path)][-1] == "step-00000006"
    assert len(recorded_steps(run.checkpoint.path)) == 6
    jobs = JobSubmissionClient(jobs_url).list_jobs()
    (job,) = [job for job in jobs if (job.metadata or {}).get("run") == "job"]
    assert (job.metadata or {})["plan"] == str(tmp_path / "plan.toml")


def test_a_run_that_cannot_start_says_why(jobs_url: str, tmp_path: Path) -> None:
    table: dict[str, Any] = material.run_table(tmp_path / "nowhere", tmp_path / "run", steps=6)
    run = parse_run(table | {"name": "lost"}, "test")
    with pytest.raises(ClusterError, match="no model directory at"):
        submit_run(run, Target(jobs_url, sys.executable), lambda line: None)
