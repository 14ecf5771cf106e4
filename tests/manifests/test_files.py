"""Every TOML file under manifests loads by the loader of its folder."""

from pathlib import Path

import pytest

from cluster.kuberay.deployment import load_deployment
from moe.config.run import load_run

MANIFESTS = Path(__file__).parents[2] / "manifests"
LOADERS = {"runs": load_run, "deployments": load_deployment}
FILES = sorted(MANIFESTS.rglob("*.toml"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(MANIFESTS)) for file in FILES])
def test_every_file_loads(file: Path) -> None:
    assert LOADERS[file.parent.name](file)


def test_there_is_an_example_for_every_loader() -> None:
    assert {file.parent.name for file in FILES} == LOADERS.keys()
