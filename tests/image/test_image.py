"""The image, built without a package index on a root of Debian's packages, and what pods ask of it.

buildah's chroot isolation needs neither a daemon nor namespaces, but root. It takes minutes and
about 10 GB of disk for a while, so it is no part of ``make test``: ``make image-test``.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w

from moe import __version__
from pipelines.training.recording import recorded_steps
from tests import material

ROOT = Path(__file__).parents[2]
RELEASE = "bookworm"
USER = 1000
LIBRARIES = "libssl3,libffi8,libsqlite3-0,libreadline8,libbz2-1.0,liblzma5,zlib1g"
"""What a Python needs of Debian."""

missing = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="building an image in a chroot needs root"),
    pytest.mark.skipif(bool(missing), reason=f"not here: {', '.join(missing)} (Debian)"),
    pytest.mark.skipif(sys.base_prefix == "/usr", reason="this Python is a part of the system"),
]


def call(*arguments: str | Path, **environment: str) -> str:
    words = [str(each) for each in arguments]
    env = os.environ | environment
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@dataclass(frozen=True, slots=True)
class Images:
    """A store of images, all in one folder."""

    folder: Path

    def buildah(self, command: str, *arguments: str | Path) -> str:
        store = ("--storage-driver", "vfs", "--root", self.folder / "store")
        return call("buildah", *store, "--runroot", self.folder / "run", command, *arguments)

    def build(self, tag: str, *arguments: str | Path) -> None:
        plain = ("--isolation", "chroot", "--layers=false")
        self.buildah("build", *plain, "--tag", tag, *arguments)

    def inside(self, container: str, *words: str, data: Path | None = None) -> str:
        """Run a command as the user of pods."""
        mounted = () if data is None else ("--volume", f"{data}:/data")
        return self.buildah("run", "--isolation", "chroot", *mounted, container, "--", *words)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    folder = tmp_path_factory.mktemp("images")
    yield Images(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def base(images: Images, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bare Debian with the Python of these tests, in the place of an image of a registry."""
    folder = tmp_path_factory.mktemp("base")
    chosen = ("--variant=minbase", f"--include={LIBRARIES},ca-certificates,wget")
    call("mmdebstrap", *chosen, RELEASE, folder / "root.tar")
    left_out = shutil.ignore_patterns("site-packages", "test", "__pycache__", "*.a")
    shutil.copytree(sys.base_prefix, folder / "python", symlinks=True, ignore=left_out)
    (folder / "Dockerfile").write_text(
        "FROM scratch\nADD root.tar /\nCOPY python /usr/local\nRUN ldconfig\n"
    )
    images.build("base", folder)
    shutil.rmtree(folder)
    return "localhost/base"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build installs, fetched before it."""
    folder = tmp_path_factory.mktemp("wheels")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = ("--only-binary=:all:", "--constraint", "requirements.lock", "--dest", folder)
    pip = (ROOT / ".venv/bin/pip", "download", "--quiet")
    call(*pip, *pinned, "hatchling", *project["dependencies"])
    return folder


@pytest.fixture(scope="module")
def container(images: Images, base: str, wheels: Path) -> str:
    """A container of the image."""
    given = {"BASE": base, "PIP_FIND_LINKS": "/wheels", "PIP_NO_INDEX": "1", "REVISION": "abc"}
    arguments = [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]
    images.build("raymoe", "--volume", f"{wheels}:/wheels:ro", *arguments, ROOT)
    return images.buildah("from", "localhost/raymoe").strip()


def test_raymoe_and_what_kuberay_runs_are_on_the_path_of_every_shell(
    images: Images, container: str
) -> None:
    assert images.inside(container, "raymoe", "--version") == f"raymoe {__version__}\n"
    assert "Turn dense language models" in images.inside(container, "raymoe", "--help")
    look = "for each in raymoe ray python wget grep; do command -v $each || exit 1; done"
    for shell in ("-c", "-lc"):
        found = images.inside(container, "bash", shell, look).split()
        assert found[:3] == [f"/opt/raymoe/bin/{name}" for name in ("raymoe", "ray", "python")]
    assert "2.60.0" in images.inside(container, "ray", "--version")


def test_nobody_is_root_and_nothing_is_there_for_building(images: Images, container: str) -> None:
    assert images.inside(container, "id", "-u") == f"{USER}\n"
    asked = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    tools = ["pip", "pytest", "mypy", "deepspeed", "ortools", "hatchling", "tests"]
    assert images.inside(container, "python", "-c", asked.format(tools)) == "[]\n"
    megabytes = int(images.inside(container, "du", "-sm", "/opt/raymoe").split()[0])
    assert megabytes < 1800


def test_a_step_is_trained_in_it(images: Images, container: str, tmp_path: Path) -> None:
    here, there = material.make(tmp_path), Path("/data")
    table = material.run_table(there, there / "run", steps=1) | {"name": "tiny"}
    table["train"]["warmup_steps"] = 1
    table["cluster"]["launch_seconds"] = 300.0
    (here / "run.toml").write_text(tomli_w.dumps(table))
    for path in (here, *here.rglob("*")):
        os.chown(path, USER, USER)
    images.inside(container, "raymoe", "train", "/data/run.toml", data=here)
    (step,) = recorded_steps(here / "run")
    assert step["step"] == 1
    assert 0 < step["loss"] < 10
