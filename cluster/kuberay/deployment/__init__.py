"""A typed deployment: a TOML file with the facts about the Kubernetes cluster that a plan lacks.

Every key of the file has a default here or is required; ``docs/guide/deployment.md`` lists them.
"""

from cluster.kuberay.deployment.config import Deployment, load_deployment, parse_deployment
from cluster.kuberay.deployment.image import ImageSection
from cluster.kuberay.deployment.lifetimes import JobSection, ServiceSection
from cluster.kuberay.deployment.objects import ObjectsSection, PodsSection, SecuritySection
from cluster.kuberay.deployment.queue import QueueSection, TopologySection
from cluster.kuberay.deployment.recovery import MonitoringSection, RecoverySection
from cluster.kuberay.deployment.sizes import DriverSection, HeadSection
from cluster.kuberay.deployment.storage import StorageSection, Volume
from cluster.kuberay.deployment.taints import Toleration
from cluster.kuberay.deployment.workers import WorkersSection

__all__ = [
    "Deployment",
    "DriverSection",
    "HeadSection",
    "ImageSection",
    "JobSection",
    "MonitoringSection",
    "ObjectsSection",
    "PodsSection",
    "QueueSection",
    "RecoverySection",
    "SecuritySection",
    "ServiceSection",
    "StorageSection",
    "Toleration",
    "TopologySection",
    "Volume",
    "WorkersSection",
    "load_deployment",
    "parse_deployment",
]
