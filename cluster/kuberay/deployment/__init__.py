"""A typed deployment: a TOML file with the facts about the Kubernetes cluster that a plan lacks.

Every key of the file has a default here or is required; ``docs/guide/deployment.md`` lists them.
"""

from cluster.kuberay.deployment.config import Deployment, load_deployment, parse_deployment
from cluster.kuberay.deployment.image import ImageSection
from cluster.kuberay.deployment.lifetimes import JobSection, ServiceSection
from cluster.kuberay.deployment.objects import ObjectsSection, PodsSection, SecuritySection
from cluster.kuberay.deployment.sizes import DriverSection, HeadSection, PodSize
from cluster.kuberay.deployment.storage import PathsSection, StorageSection
from cluster.kuberay.deployment.workers import Toleration, WorkersSection

__all__ = [
    "Deployment",
    "DriverSection",
    "HeadSection",
    "ImageSection",
    "JobSection",
    "ObjectsSection",
    "PathsSection",
    "PodSize",
    "PodsSection",
    "SecuritySection",
    "ServiceSection",
    "StorageSection",
    "Toleration",
    "WorkersSection",
    "load_deployment",
    "parse_deployment",
]
