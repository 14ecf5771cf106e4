"""The ten commands of manifests/README.md, each as far as it goes without a cluster."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kube.checks.kuberay import OLDEST_OPERATOR
from cluster.kuberay.deployment import load_deployment
from tests.kube.installed import install
from tests.kube.kubeconfig import lead_to
from tests.kube.server import Store, serving
from tests.manifests.overlays import MANIFESTS, ROOT
from tests.shell import Shell

RUN = "smollm2-kind"

Table = dict[str, Any]


def commands() -> list[list[str]]:
    """Return the commands of the first block, by their numbers."""
    text = (MANIFESTS / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block[1].replace("\\\n", " ").splitlines()
    numbers = [int(line.rpartition("#")[2]) for line in lines]
    assert numbers == list(range(1, 11))
    return [shlex.split(line.rpartition("#")[0]) for line in lines]


def fifth() -> list[Table]:
    """Return the objects that the fifth command applies."""
    kubectl, folder = str(Path(sys.executable).with_name("kubectl")), ROOT / commands()[4][-1]
    words = [kubectl, "kustomize", str(folder)]
    done = subprocess.run(words, capture_output=True, check=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def test_the_files_and_names_of_the_commands_are_there() -> None:
    words = [word for command in commands() for word in command if word.startswith("manifests/")]
    assert len(words) == 4
    assert all((ROOT / word).exists() for word in words)
    image = commands()[2][commands()[2].index("--tag") + 1]
    assert image in commands()[3]
    prepare = MANIFESTS / "overlays" / "kind-cpu" / "data" / "prepare.yaml"
    assert f"image: {image}" in prepare.read_text(encoding="utf-8")


def test_the_first_commands_agree_with_each_other_and_with_what_is_here() -> None:
    """Nothing here can run them: kind, helm and docker are what a laptop has."""
    kind, helm, build, load = commands()[:4]
    assert kind[kind.index("--name") + 1] == load[load.index("--name") + 1]
    version = tuple(map(int, helm[helm.index("--version") + 1].split(".")))
    assert version[: len(OLDEST_OPERATOR)] >= OLDEST_OPERATOR
    arguments = {each.partition("=")[0] for each in build if each.startswith("PIP_")}
    assert arguments
    assert all(f"ARG {each}" in (ROOT / "Dockerfile").read_text() for each in arguments)
    options = load_deployment(MANIFESTS / "deployments" / "kind-cpu.toml")
    assert options.image.name == build[build.index("--tag") + 1] == load[3]


def applied(store: Store) -> None:
    """Play commands 2, 5 and 6: KubeRay, and the objects of data/, whose claim has its volume."""
    install(store)
    for table in fifth():
        plural = f"{table['kind'].lower()}s"
        if table["kind"] == "PersistentVolumeClaim":
            table["status"] = {"phase": "Bound"}
        store.put(table, plural)


def test_the_seventh_command_is_content_with_what_the_ones_before_have_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    shell, store = Shell(tmp_path, monkeypatch, capsys), Store()
    applied(store)
    file = MANIFESTS / "overlays" / "kind-cpu" / "training.yaml"
    with serving(store) as api:
        lead_to(api, tmp_path, monkeypatch)
        out, _ = shell.run(*commands()[6][1:], "--objects", file)
    assert "wrong" not in out
    assert "caution: access mode of raymoe-data: ReadWriteOnce" in out  # one node can do with it


def test_the_fifth_command_builds_what_the_sixth_waits_for() -> None:
    made = [(each["kind"], each["metadata"]["name"]) for each in fifth()]
    assert ("Job", "prepare") in made
    assert "job/prepare" in commands()[5]
    claim = next(each for each in fifth() if each["kind"].endswith("Claim"))
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_the_commands_of_the_job_s_data_are_commands_of_raymoe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (MANIFESTS / "overlays" / "kind-cpu" / "data" / "prepare.yaml").read_text()
    shell = Shell(tmp_path, monkeypatch, capsys)
    for verb in re.findall(r"raymoe ((?:fetch )?[a-z0-9]+)", text):
        options = re.findall(r"--[a-z-]+", next(line for line in text.splitlines() if verb in line))
        out, _ = shell.run(*verb.split(), "--help")
        assert all(option in out for option in options), (verb, options)


def test_the_last_four_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On an API server in memory, with KubeRay played by the test."""
    monkeypatch.chdir(ROOT)
    shell, store = Shell(tmp_path, monkeypatch, capsys), Store()
    doctor, training, watch, serving_ = (command[1:] for command in commands()[6:])
    with serving(store) as api:
        lead_to(api, tmp_path, monkeypatch)
        code, out, err = shell.typed(*doctor)
        assert code == 1
        assert "install KubeRay" in err
        assert "claim raymoe-data" in out
        assert f"RayJob/{RUN}: made" in shell.run(*training)[0]
        store.find("rayjobs", RUN)["status"] = {"jobStatus": "SUCCEEDED"}
        assert f"RayJob/{RUN} finished" in shell.run(*watch)[0]
        assert f"RayService/{RUN}: made" in shell.run(*serving_)[0]
