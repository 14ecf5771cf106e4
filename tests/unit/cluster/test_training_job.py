"""The job that trains a run, and the sentence that a failed one leaves."""

from typing import Any

import pytest

from cluster.job_words import reason_of
from cluster.training_job import TrainingJob, project_root

JOB = TrainingJob("demo", 'name = "demo"\n', {"plan": "2 stages", "checkpoint": "/data/runs"})


def test_it_carries_the_run_and_says_what_it_is() -> None:
    request = JOB.request()
    assert request.environment == {"RAYMOE_RUN": 'name = "demo"\n'}
    assert request.metadata["run"] == "demo"
    assert request.metadata["checkpoint"] == "/data/runs"
    assert request.metadata["code"].startswith("raymoe 0.")
    assert "commit " in request.metadata["code"]
    assert request.working_dir == project_root()
    assert (project_root() / "pipelines").is_dir()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, "train /dev/stdin"),
        ({"resume": "always"}, "train /dev/stdin --resume"),
        ({"resume": "if-saved"}, "train /dev/stdin --resume-if-saved"),
    ],
)
def test_how_it_resumes_is_in_its_command(changes: dict[str, Any], end: str) -> None:
    job = TrainingJob("demo", "", {}, **changes)
    assert job.request().entrypoint.endswith(end)


def test_the_code_of_the_image_is_not_sent() -> None:
    request = TrainingJob("demo", "", {}, code="image").request()
    assert request.working_dir is None
    assert request.metadata["code"] == "that of the image"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("exit code 1, logs:\nstep 1\nerror: no room\n", "no room"),
        ("error: a\nerror: b\nTraceback\n", "b"),
        ("Traceback\nValueError: x", "ValueError: x"),
        ("no such model\nRunning entrypoint for job a: python b.py", "no such model"),
        ("", ""),
        ("x" * 1000, "x" * 300),
    ],
)
def test_a_failure_is_one_sentence(message: str, reason: str) -> None:
    assert reason_of(message) == reason
