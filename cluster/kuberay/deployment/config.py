"""One deployment file: all its sections, and the rules between them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from posixpath import normpath
from typing import Any

from pydantic import field_validator, model_validator

from cluster.kuberay.deployment.image import ImageSection
from cluster.kuberay.deployment.lifetimes import JobSection, ServiceSection
from cluster.kuberay.deployment.objects import ObjectsSection, PodsSection, SecuritySection
from cluster.kuberay.deployment.sizes import DriverSection, HeadSection
from cluster.kuberay.deployment.storage import PathsSection, StorageSection
from cluster.kuberay.deployment.workers import WorkersSection
from cluster.kuberay.names import is_namespace
from moe.config.section import Section
from moe.config.section_file import load_sections, parse_sections

_NOUN = "deployment file"


class Deployment(Section):
    """How the Kubernetes objects of any plan look on one cluster."""

    image: ImageSection
    storage: StorageSection
    namespace: str = "default"
    """The namespace of the objects and of everything that they refer to."""
    paths: PathsSection = PathsSection()
    head: HeadSection = HeadSection()
    driver: DriverSection = DriverSection()
    workers: WorkersSection = WorkersSection()
    objects: ObjectsSection = ObjectsSection()
    pods: PodsSection = PodsSection()
    security: SecuritySection = SecuritySection()
    job: JobSection = JobSection()
    service: ServiceSection = ServiceSection()

    @property
    def pod_paths(self) -> PathsSection:
        """The paths of ``paths`` from the root of a pod's file system."""
        return self.paths.below(self.storage.mount)

    @field_validator("namespace")
    @classmethod
    def _is_a_namespace(cls, namespace: str) -> str:
        if not is_namespace(namespace):
            raise ValueError("give lower-case letters, digits and dashes")
        return namespace

    @model_validator(mode="after")
    def _paths_in_the_volume(self) -> "Deployment":
        mount = self.storage.mount
        for key, path in self.pod_paths.model_dump().items():
            if not normpath(path).startswith(f"{mount}/"):
                raise ValueError(
                    f"paths.{key} is {path}, which is not in the volume at {mount}, so the pods "
                    "do not share it; give a path relative to storage.mount"
                )
        return self


def load_deployment(path: Path | None, overrides: Sequence[str] = ()) -> Deployment:
    """Read a deployment file, if there is one, and apply ``section.key=value`` overrides."""
    return load_sections(path, Deployment, _NOUN, overrides)


def parse_deployment(table: Mapping[str, Any], source: str) -> Deployment:
    """Turn a table into a Deployment; ConfigError lists every fault with its dotted key."""
    return parse_sections(table, Deployment, _NOUN, source)
