"""``raymoe kube render``: which object comes of which words, and runs its pods would not suit."""

import json
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kuberay.deployment import load_deployment
from moe.config.run import load_run, parse_run
from moe.errors import ConfigError
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.plan.file import load_plan, save_plan
from moe.planning.search.interleave import interleave
from tests import plans, runs
from tests.shell import SMALL, Shell

Table = dict[str, Any]

DEPLOYMENT = '[image]\nname = "registry.example/raymoe:0.1.0"\n[storage]\nclaim = "shared"\n'
RUN = """
name = "demo"
[model]
path = "/data/model"
[data]
path = "/data/tokens"
sequence_length = 512
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


def words(shell: Shell, *more: object, plan: bool = True) -> tuple[object, ...]:
    there = shell.path
    own = ("--plan", there / "plan.toml") if plan else ()
    given = ("--model", there / "model", "--deployment", there / "deployment.toml")
    return ("kube", "render", there / "run.toml", *given, *own, *more)


def rendered(shell: Shell, *more: object, plan: bool = True) -> tuple[Table, Table]:
    """Return the ConfigMap and the object that the command writes."""
    to = shell.path / "objects.yaml"
    said = shell.run(*words(shell, *more, plan=plan), "--to", to)[0]
    assert said.endswith(f"{to}")
    files, guard, table = yaml.safe_load_all(to.read_text())
    assert (files["kind"], guard["kind"]) == ("ConfigMap", "PodDisruptionBudget")
    cluster = table["spec"].get("rayClusterSpec") or table["spec"]["rayClusterConfig"]
    head = cluster["headGroupSpec"]["template"]["metadata"]["labels"]
    assert guard["spec"]["selector"]["matchLabels"].items() <= head.items()
    return files, table


def changed(shell: Shell, before: str, after: str) -> None:
    assert before in RUN
    (shell.path / "run.toml").write_text(RUN.replace(before, after))


def test_a_run_gives_a_job_or_a_service_of_its_name(shell: Shell) -> None:
    files, job = rendered(shell, "--set", "image.name=a/b:1")
    assert (job["kind"], job["metadata"]["name"]) == ("RayJob", "demo")
    assert job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"] == "a/b:1"
    assert files["metadata"]["name"] == "demo-training"
    files, service = rendered(shell, "--service", "--name", "answers")
    assert (service["kind"], service["metadata"]["name"]) == ("RayService", "answers")
    assert files["metadata"]["name"] == "answers-serving"
    assert list(files["data"]) == ["plan.toml"]


def test_the_files_in_the_pods_are_the_run_under_the_plan(shell: Shell) -> None:
    files, _ = rendered(shell)
    found = parse_run(tomllib.loads(files["data"]["run.toml"]), "the ConfigMap")
    asked = load_run(shell.path / "run.toml")
    assert found.plan.path == Path("/etc/raymoe/plan.toml")
    assert found.cluster.address == "auto"
    same = {"plan": asked.plan, "cluster": asked.cluster}
    assert found.model_copy(update=same) == asked
    (shell.path / "again.toml").write_text(files["data"]["plan.toml"])
    assert load_plan(shell.path / "again.toml") == load_plan(shell.path / "plan.toml")


def test_the_shards_say_how_long_sequences_are_if_the_run_does_not(shell: Shell) -> None:
    changed(shell, "sequence_length = 512\n", "")
    assert "nothing says how long sequences are; add sequence_length" in shell.refused(
        *words(shell)
    )


def test_longer_sequences_and_another_precision_change_the_pods_by_the_run_alone(
    shell: Shell,
) -> None:
    def memory(after: str) -> int:
        changed(shell, "sequence_length = 512\n", after)
        cluster = rendered(shell)[1]["spec"]["rayClusterSpec"]
        groups = [each for each in cluster["workerGroupSpecs"] if each["groupName"] != "driver"]
        return sum(
            each["replicas"] * int(_limits(each)["memory"].removesuffix("Gi")) for each in groups
        )

    plain = memory("sequence_length = 512\n")
    assert memory("sequence_length = 8192\n") > plain > 0


def _limits(group: Table) -> dict[str, str]:
    box = group["template"]["spec"]["containers"][0]
    return dict(box["resources"]["limits"])


def test_without_a_file_to_write_the_objects_are_printed(shell: Shell) -> None:
    out, _ = shell.run(*words(shell))
    assert out.startswith("--- apiVersion: v1 kind: ConfigMap")
    assert "kind: RayJob" in out


def test_the_two_keys_without_a_default_are_enough(shell: Shell) -> None:
    there = shell.path
    words = ("kube", "render", there / "run.toml", "--model", there / "model", "--plan")
    out, _ = shell.run(*words, there / "plan.toml", "--image", "a/b:1", "--claim", "shared")
    assert "kind: RayJob" in out
    assert "image: a/b:1" in out
    assert "claimName: shared" in out
    with pytest.raises(ConfigError, match=r"no deployment file is given:\n  image: missing"):
        load_deployment(None, ["storage.claim=shared"])


def test_another_model_is_refused_and_one_that_is_not_here_asked_for(shell: Shell) -> None:
    other = shell.model(replace(SMALL, layers=7), "other")
    assert "layers = 6, the model has 7" in shell.refused(*words(shell), "--model", other)
    bare = ("kube", "render", shell.path / "run.toml", "--image", "a/b:1", "--claim", "c")
    assert "/data/model, which is not here; give --model" in shell.refused(*bare)
    config = shell.path / "model" / "config.json"
    plan = ("--plan", shell.path / "plan.toml")
    assert "kind: RayJob" in shell.run(*bare, *plan, "--model", config)[0]


def test_a_plan_is_made_for_devices_in_the_shape_of_the_run(shell: Shell) -> None:
    changed(shell, 'path = "/data/plan.toml"', "stages = 2\ngang = 1")
    refused = shell.refused(*words(shell, plan=False))
    assert "demo has no plan yet; give --plan FILE, or --inventory or --nodes" in refused
    there = shell.inventory(plans.inventory(2, memory_bytes=64 * 2**30))
    files, job = rendered(shell, "--inventory", there, plan=False)
    (shell.path / "made.toml").write_text(files["data"]["plan.toml"])
    made = load_plan(shell.path / "made.toml")
    assert (len(made.stages), made.gang_size, made.replicas) == (2, 1, 1)
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert sum(group["replicas"] for group in groups) == 3
    refused = shell.refused(*words(shell, "--inventory", there))
    assert "so no plan is made for devices; leave out --inventory" in refused


def test_the_largest_model_of_the_papers_needs_no_weights_and_few_seconds(shell: Shell) -> None:
    """146B parameters on 1,536 A800: 12 stages x 4 ranks x 32 replicas."""
    devices = tuple(
        Device(f"n{node}/gpu{gpu}", f"n{node}", "A800", 80 * 2**30, threads=8, host_bytes=2**40)
        for node in range(192)
        for gpu in range(8)
    )
    there = shell.inventory(Inventory(devices))
    shape = "stages = 12\ngang = 4\nreplicas = 32"
    text = RUN.replace('path = "/data/plan.toml"', shape).replace("batch = 8", "batch = 1024")
    (shell.path / "run.toml").write_text(text.replace("512", "4096"))
    given = ("--inventory", there)
    began = time.process_time()
    files, job = rendered(shell, *given, "--model", "skywork-moe-146b", plan=False)
    assert time.process_time() - began < 5
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [(each["groupName"], each["replicas"]) for each in groups] == [
        ("driver", 1),
        ("gpu-0", 384),
    ]
    assert _limits(groups[1])["nvidia.com/gpu"] == "4"
    assert len(yaml.safe_dump(files)) < 2**20


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"/data/tokens"', '"tokens"', "data.path of the run file is tokens, but pods share only"),
        ('"/data/runs', '"/scratch/runs', "checkpoint.path of the run file is /scratch/runs/demo"),
        ("batch = 8", "batch = 8\nschedule = 'zbv'", "2 spans of layers a stage"),
        ("[plan]", "[balance]\nloss='switch'\n[plan]", "is a dense model"),
    ],
)
def test_a_run_that_the_pods_would_not_suit_is_refused(
    shell: Shell, before: str, after: str, said: str
) -> None:
    changed(shell, before, after)
    assert said in shell.refused(*words(shell))


def test_paths_may_be_in_any_volume_that_pods_share(shell: Shell) -> None:
    changed(shell, '"/data/tokens"', '"/tokens/all"')
    bucket = '[{name="tokens", mount="/tokens", claim="tokens", read_only=true}]'
    _, job = rendered(shell, "--set", f"volumes={bucket}")
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "tokens", "mountPath": "/tokens", "readOnly": True} in (
        pod["containers"][0]["volumeMounts"]
    )


def test_arguments_of_the_server_are_checked_and_size_its_pods(shell: Shell) -> None:
    said = shell.refused(*words(shell, "--service", "--set", "service.arguments={cach=1}"))
    assert "serving argument cach: unknown; did you mean cache?" in said
    small, large = (
        rendered(shell, "--service", "--set", f"service.arguments={{cache_tokens={tokens}}}")[1]
        for tokens in (4096, 2**20)
    )
    groups = [each["spec"]["rayClusterConfig"]["workerGroupSpecs"][1] for each in (small, large)]
    assert _limits(groups[0])["memory"] != _limits(groups[1])["memory"]


def test_a_plan_of_several_runs_of_layers_is_for_jobs(shell: Shell) -> None:
    save_plan(interleave(runs.plan(SMALL, (6,)), 2), shell.path / "plan.toml")
    refused = shell.refused(*words(shell, "--service"))
    assert "for training and cannot become a RayService" in refused
    assert "1f1b needs one span of layers a stage" in shell.refused(*words(shell))
    changed(shell, "batch = 8", "batch = 8\nschedule = 'zbv'")
    assert rendered(shell)[1]["kind"] == "RayJob"


def test_nodes_of_a_cluster_give_the_devices_and_their_selectors(shell: Shell) -> None:
    changed(shell, 'path = "/data/plan.toml"', "stages = 2\ngang = 1")
    gpus = {"nvidia.com/gpu": "2", "cpu": "16", "memory": "512Gi"}
    labels = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    node = {
        "metadata": {"name": "a", "labels": labels},
        "status": {"allocatable": gpus, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    (shell.path / "nodes.json").write_text(json.dumps({"kind": "NodeList", "items": [node]}))
    _, job = rendered(shell, "--nodes", shell.path / "nodes.json", plan=False)
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]
    assert group["template"]["spec"]["nodeSelector"] == labels
    assert _limits(group)["nvidia.com/gpu"] == "1"
    assert group["replicas"] == 2


def test_the_driver_of_a_run_is_in_the_driver_pod_unless_the_run_says_where(shell: Shell) -> None:
    files, job = rendered(shell)
    driver = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    asked = tomllib.loads(files["data"]["run.toml"])["cluster"]["driver_labels"]
    assert asked == {"raymoe/role": "driver"}
    assert asked.items() <= driver["labels"].items()
    others = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][1:]
    assert not any(asked.items() <= group["labels"].items() for group in others)
    changed(shell, "[checkpoint]", '[cluster]\ndriver_labels = {pool = "big"}\n[checkpoint]')
    again = tomllib.loads(rendered(shell)[0]["data"]["run.toml"])
    assert again["cluster"]["driver_labels"] == {"pool": "big"}


def test_replicas_of_a_server_have_ranks_of_their_own_and_room_in_the_driver_pod(
    shell: Shell,
) -> None:
    def cluster(**arguments: int) -> Table:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        override = f"service.arguments={{{given}}}"
        found = rendered(shell, "--service", "--set", override)[1]["spec"]
        assert yaml.safe_load(found["serveConfigV2"])["applications"][0]["args"][
            "driver_labels"
        ] == {"raymoe/role": "driver"}
        table: Table = found["rayClusterConfig"]
        return table

    def pods(table: Table) -> list[int]:
        return [group["replicas"] for group in table["workerGroupSpecs"]]

    one, three = cluster(replicas=1), cluster(replicas=3)
    scaled = cluster(replicas=0, max_replicas=2, surge=1)
    assert pods(three) == [1, *(3 * count for count in pods(one)[1:])] == pods(scaled)
    sizes = [_limits(table["workerGroupSpecs"][0]) for table in (one, three, scaled)]
    assert sizes[1] == sizes[2]
    assert int(sizes[1]["cpu"]) > int(sizes[0]["cpu"])
    assert int(sizes[1]["memory"][:-2]) > int(sizes[0]["memory"][:-2])


def test_pods_are_not_sized_for_workers_of_deepspeed(shell: Shell) -> None:
    file = shell.path / "run.toml"
    asked = 'engine = "deepspeed"\ndeepspeed_config = "/data/ds.json"\n[plan]\nreplicas = 2'
    text = file.read_text().replace('[plan]\npath = "/data/plan.toml"', asked)
    file.write_text(text)
    assert "send the run to a Ray cluster by `raymoe submit`" in shell.refused(*words(shell))
