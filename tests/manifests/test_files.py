"""Every TOML file under manifests loads by the loader of its folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.kuberay.deployment import load_deployment
from moe.config.run import load_run
from moe.planning.devices.inventory_file import load_inventory
from moe.planning.plan.file import load_plan

MANIFESTS = Path(__file__).parents[2] / "manifests"
LOADERS: dict[str, Callable[[Path], object]] = {
    "components": lambda file: load_deployment(MANIFESTS / "deployments" / "cpu.toml", over=[file]),
    "runs": load_run,
    "deployments": load_deployment,
    "inventories": load_inventory,
    "overlays": load_plan,
}
FILES = sorted(MANIFESTS.rglob("*.toml"))


def _room(file: Path) -> str:
    return file.relative_to(MANIFESTS).parts[0]


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(MANIFESTS)) for file in FILES])
def test_every_file_loads(file: Path) -> None:
    assert LOADERS[_room(file)](file)


def test_there_is_an_example_for_every_loader() -> None:
    assert {_room(file) for file in FILES} == LOADERS.keys()
