"""One deployment file: all its sections, and the rules between them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from cluster.kuberay.deployment.image import ImageSection
from cluster.kuberay.deployment.lifetimes import JobSection, ServiceSection
from cluster.kuberay.deployment.objects import ObjectsSection, PodsSection, SecuritySection
from cluster.kuberay.deployment.queue import QueueSection, TopologySection
from cluster.kuberay.deployment.recovery import MonitoringSection, RecoverySection
from cluster.kuberay.deployment.sizes import DriverSection, HeadSection
from cluster.kuberay.deployment.storage import StorageSection, Volume
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
    volumes: list[Volume] = Field(default=[])
    """Further volumes of head, driver and rank pods."""
    head: HeadSection = HeadSection()
    driver: DriverSection = DriverSection()
    workers: WorkersSection = WorkersSection()
    objects: ObjectsSection = ObjectsSection()
    pods: PodsSection = PodsSection()
    security: SecuritySection = SecuritySection()
    job: JobSection = JobSection()
    service: ServiceSection = ServiceSection()
    queue: QueueSection = QueueSection()
    topology: TopologySection = TopologySection()
    recovery: RecoverySection = RecoverySection()
    monitoring: MonitoringSection = MonitoringSection()

    @property
    def mounts(self) -> tuple[str, ...]:
        """Where pods find what they share with each other: the storage and the claims."""
        shared = (each.mount for each in self.volumes if each.claim or each.csi_driver)
        return (self.storage.mount, *shared)

    @field_validator("namespace")
    @classmethod
    def _is_a_namespace(cls, namespace: str) -> str:
        if not is_namespace(namespace):
            raise ValueError("give lower-case letters, digits and dashes")
        return namespace

    @model_validator(mode="after")
    def _volumes_apart(self) -> "Deployment":
        for what in ("name", "mount"):
            used = [getattr(each, what) for each in self.volumes]
            used += [self.storage.mount] if what == "mount" else []
            if twice := [each for each, count in Counter(used).items() if count > 1]:
                raise ValueError(f"several volumes have the {what} {twice[0]}; give each its own")
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> "Deployment":
        if self.service.upgrade == "incremental" and not self.workers.autoscale:
            raise ValueError(
                'service.upgrade = "incremental" moves pods from one cluster to the other by the '
                "autoscaler; set workers.autoscale = true, or choose another upgrade"
            )
        kueue = self.queue.scheduler == "kueue" and self.queue.given
        if self.job.has_rules and kueue:
            raise ValueError(
                "a queue of Kueue suspends jobs, and KubeRay suspends none with rules for its end; "
                "remove job.keep_failed_seconds and job.forget_seconds, or queue.name"
            )
        if self.topology.label and self.topology.unit == "replica" and not kueue:
            raise ValueError(
                "only Kueue knows which pods are a replica; give queue.name of a queue of Kueue, "
                'or topology.unit = "run"'
            )
        return self


def load_deployment(
    path: Path | None, overrides: Sequence[str] = (), over: Sequence[Path] = ()
) -> Deployment:
    """Read a deployment file, if there is one, and apply ``section.key=value`` overrides.

    Files ``over`` it, as those of ``manifests/components``, change the keys that they give.
    """
    return load_sections(path, Deployment, _NOUN, overrides, over)


def parse_deployment(table: Mapping[str, Any], source: str) -> Deployment:
    """Turn a table into a Deployment; ConfigError lists every fault with its dotted key."""
    return parse_sections(table, Deployment, _NOUN, source)
