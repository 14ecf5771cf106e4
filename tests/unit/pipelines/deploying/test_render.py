"""``raymoe kube render``: which object comes of which words, and runs its pods would not suit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kuberay.deployment import load_deployment
from moe.errors import ConfigError
from moe.planning.plan.file import save_plan
from moe.planning.search.interleave import interleave
from tests import runs
from tests.shell import SMALL, Shell

DEPLOYMENT = '[image]\nname = "registry.example/raymoe:0.1.0"\n[storage]\nclaim = "shared"\n'
RUN = """
name = "demo"
[model]
path = "/data/model"
[data]
path = "/data/tokens"
[train]
steps = 5
global_batch = 8
learning_rate = 1e-4
[plan]
path = "/data/plan.toml"
[checkpoint]
path = "/data/runs/demo"
"""


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """A directory with a plan of two stages of two ranks, a run file and a deployment file."""
    save_plan(runs.plan(SMALL, (3, 3), (1, 2)), tmp_path / "plan.toml")
    (tmp_path / "deployment.toml").write_text(DEPLOYMENT)
    (tmp_path / "run.toml").write_text(RUN)
    shell = Shell(tmp_path, monkeypatch, capsys)
    shell.model(SMALL)
    return shell


def words(shell: Shell, *more: object) -> tuple[object, ...]:
    there = shell.path
    plan, deployment = there / "plan.toml", there / "deployment.toml"
    model = there / "model"
    return ("kube", "render", plan, "--model", model, "--deployment", deployment, *more)


def rendered(shell: Shell, *more: object) -> dict[str, Any]:
    """Return the one object that the command writes."""
    to = shell.path / "object.yaml"
    assert shell.run(*words(shell, *more), "--to", to)[0] == f"wrote {to}"
    (table,) = yaml.safe_load_all(to.read_text())
    return dict(table)


def refusal(shell: Shell, *more: object) -> str:
    return shell.refused(*words(shell, *more))


def test_a_run_gives_a_job_of_its_name_and_none_gives_a_service(shell: Shell) -> None:
    run = shell.path / "run.toml"
    job = rendered(shell, "--run", run, "--set", "image.name=a/b:1")
    assert (job["kind"], job["metadata"]["name"]) == ("RayJob", "demo")
    assert job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"] == "a/b:1"
    assert rendered(shell, "--run", run, "--name", "other")["metadata"]["name"] == "other"
    service = rendered(shell, "--name", "answers")
    assert (service["kind"], service["metadata"]["name"]) == ("RayService", "answers")
    assert "has no name; give --name" in refusal(shell)


def test_without_a_file_to_write_the_object_is_printed(shell: Shell) -> None:
    out, _ = shell.run(*words(shell, "--name", "answers"))
    assert out.startswith("--- apiVersion: ray.io/v1 kind: RayService")


def test_the_two_keys_without_a_default_are_enough(shell: Shell) -> None:
    words = ("kube", "render", shell.path / "plan.toml", "--model", shell.path / "model")
    out, _ = shell.run(*words, "--name", "r", "--image", "a/b:1", "--claim", "shared")
    assert "kind: RayService" in out
    assert "image: a/b:1" in out
    assert "claimName: shared" in out
    with pytest.raises(ConfigError, match=r"no deployment file is given:\n  image: missing"):
        load_deployment(None, ["storage.claim=shared"])


def test_longer_sequences_need_larger_pods(shell: Shell) -> None:
    def memory(length: int) -> str:
        job = rendered(shell, "--run", shell.path / "run.toml", "--sequence-length", length)
        pod = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["template"]["spec"]
        return str(pod["containers"][0]["resources"]["limits"]["memory"])

    assert int(memory(4096).removesuffix("Gi")) > int(memory(128).removesuffix("Gi"))


def test_another_model_is_refused(shell: Shell) -> None:
    other = shell.model(replace(SMALL, layers=7), "other")
    assert "layers = 6, the model has 7" in refusal(shell, "--model", other, "--name", "x")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"/data/tokens"', '"tokens"', "data.path of the run file is tokens, but pods share only"),
        ('"/data/runs', '"/scratch/runs', "checkpoint.path of the run file is /scratch/runs/demo"),
        (
            'path = "/data/plan.toml"',
            "stages = 2",
            "a plan of its own with stages = 2, gang = 1, chunks = 1, replicas = 1, but the pods "
            "are for a plan with stages = 2, gang = 2",
        ),
        ("batch = 8", "batch = 8\nschedule = 'zbv'", "2 spans of layers a stage"),
    ],
)
def test_a_run_that_the_pods_would_not_suit_is_refused(
    shell: Shell, before: str, after: str, said: str
) -> None:
    run = shell.path / "run.toml"
    assert before in RUN
    run.write_text(RUN.replace(before, after))
    assert said in refusal(shell, "--run", run)


def test_a_plan_of_several_runs_of_layers_is_for_jobs(shell: Shell) -> None:
    run = shell.path / "run.toml"
    save_plan(interleave(runs.plan(SMALL, (6,)), 2), shell.path / "plan.toml")
    assert "for training and cannot become a RayService" in refusal(shell, "--name", "x")
    assert "1f1b needs one span of layers a stage" in refusal(shell, "--run", run)
    run.write_text(RUN.replace("batch = 8", "batch = 8\nschedule = 'zbv'"))
    assert rendered(shell, "--run", run)["kind"] == "RayJob"
