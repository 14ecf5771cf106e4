import sys
from pathlib import Path

import pytest

from cluster.jobs import JobRequest, follow, stop, submit
from moe.errors import ClusterError

pytestmark = [
    pytest.mark.ray,
    # Ray's own client opens its web socket with an argument that aiohttp has renamed.
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning"),
]

WORKS = """
import os, ray
from cluster.session import session
with session("local") as joined:
    assert not joined.started
    print(os.environ["GREETING"], ray.cluster_resources()["CPU"])
print("left")
"""


def _request(name: str, directory: Path, script: str) -> JobRequest:
    (directory / "job_script.py").write_text(script)
    return JobRequest(
        name=name,
        entrypoint=f"{sys.executable} job_script.py",
        working_dir=directory,
        metadata={"run": name},
        environment={"GREETING": "hello", "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_a_job_is_followed_to_its_end_inside_the_cluster_it_runs_on(
    jobs_url: str, tmp_path: Path
) -> None:
    request = _request("works", tmp_path, WORKS)
    lines: list[str] = []
    job = submit(jobs_url, request)
    assert follow(job, lines.append) == "SUCCEEDED"
    assert [line for line in lines if line.startswith(("hello", "left"))] == ["hello 8.0", "left"]
    assert not job.joined
    assert job.identifier == request.identifier


def test_a_failed_job_raises_what_it_said_and_may_be_tried_again(
    jobs_url: str, tmp_path: Path
) -> None:
    request = _request("fails", tmp_path, "raise SystemExit('no such model')")
    for number in (1, 2):
        job = submit(jobs_url, request)
        assert job.identifier == request.identifier + ("" if number == 1 else "-2")
        with pytest.raises(ClusterError, match=r"exit code 1(.|\n)*no such model"):
            follow(job, lambda line: None)


def test_a_running_job_is_joined_and_stopped(jobs_url: str, tmp_path: Path) -> None:
    request = _request("waits", tmp_path, "import time; print('on', flush=True); time.sleep(300)")
    job = submit(jobs_url, request)
    again = submit(jobs_url, request)
    assert (again.identifier, again.joined) == (job.identifier, True)

    seen: list[str] = []

    def stop_at_first_line(line: str) -> None:
        seen.append(line)
        if line == "on":
            assert stop(job)

    assert follow(again, stop_at_first_line) == "STOPPED"
    assert "on" in seen
    assert not stop(job)
