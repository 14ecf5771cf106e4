"""The ten commands of manifests/README.md, each as far as it goes without a cluster."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.kube.kubeconfig import lead_to
from tests.kube.server import Store, serving
from tests.manifests.overlays import MANIFESTS, ROOT
from tests.shell import Shell

RUN = "smollm2-kind"


def commands() -> list[list[str]]:
    """Return the commands of the first block, by their numbers."""
    text = (MANIFESTS / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block[1].replace("\\\n", " ").splitlines()
    numbers = [int(line.rpartition("#")[2]) for line in lines]
    assert numbers == list(range(1, 11))
    return [shlex.split(line.rpartition("#")[0]) for line in lines]


def test_the_files_and_names_of_the_commands_are_there() -> None:
    words = [word for command in commands() for word in command if word.startswith("manifests/")]
    assert len(words) == 4
    assert all((ROOT / word).exists() for word in words)
    image = commands()[2][commands()[2].index("--tag") + 1]
    assert image in commands()[3]
    prepare = MANIFESTS / "overlays" / "kind-cpu" / "data" / "prepare.yaml"
    assert f"image: {image}" in prepare.read_text(encoding="utf-8")


def test_the_fifth_command_builds_what_the_sixth_waits_for() -> None:
    folder = ROOT / commands()[4][-1]
    kubectl = str(Path(sys.executable).with_name("kubectl"))
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, check=True, text=True
    )
    made = [(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(done.stdout)]
    assert ("Job", "prepare") in made
    assert "job/prepare" in commands()[5]
    claim = next(each for each in yaml.safe_load_all(done.stdout) if each["kind"].endswith("Claim"))
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
