"""The objects of manifests/overlays, rendered from the runs, plans and deployments beside them.

python -m tests.manifests.overlays     writes them anew
"""

import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from cluster.kuberay.deployment import load_deployment
from cluster.kuberay.writing import dump
from moe.config.run import load_run
from pipelines.deploying.render import serving_objects, training_objects
from pipelines.deploying.sources import Sources

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"

OVERLAYS: dict[str, tuple[str, str, str]] = {
    "kind-cpu": ("smollm2-kind", "manifests/models/smollm2-moe", "kind-cpu"),
    "gpu": ("deepseek-16b", "deepseek-moe-16b", "gpu"),
    "prod": ("deepseek-16b", "deepseek-moe-16b", "prod"),
}
"""The run, the model and the deployment of each overlay."""


def layers(overlay: str) -> list[Path]:
    """Return the deployment files of the components that an overlay includes."""
    folder = MANIFESTS / "overlays" / overlay
    table = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    files = [(folder / each / "deployment.toml").resolve() for each in table.get("components", ())]
    return [file for file in files if file.is_file()]


def command(overlay: str, service: bool) -> str:
    """Return the command that renders the same, from the root of the repository."""
    run, model, deployment = OVERLAYS[overlay]
    files = [f"manifests/deployments/{deployment}.toml"]
    files += [str(file.relative_to(ROOT)) for file in layers(overlay)]
    return (
        f"raymoe kube render manifests/runs/{run}.toml --model {model} "
        f"--plan manifests/overlays/{overlay}/plan.toml "
        + " ".join(f"--deployment {file}" for file in files)
        + (" --service" if service else "")
    )


def rendered() -> Iterator[tuple[Path, str]]:
    """Yield every file of the overlays that is rendered, with its text."""
    os.chdir(ROOT)
    for overlay, (name, model, file) in OVERLAYS.items():
        run = load_run(MANIFESTS / "runs" / f"{name}.toml")
        first = MANIFESTS / "deployments" / f"{file}.toml"
        deployment = load_deployment(first, over=layers(overlay))
        sources = Sources(model, MANIFESTS / "overlays" / overlay / "plan.toml")
        for service, render, to in (
            (False, training_objects, "training.yaml"),
            (True, serving_objects, "serving/serving.yaml"),
        ):
            text = dump(render(run, deployment, sources))
            yield MANIFESTS / "overlays" / overlay / to, f"# {command(overlay, service)}\n{text}"


if __name__ == "__main__":
    for path, text in rendered():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
