"""What the Plan cannot know: names, images, storage and sizes of a deployment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from moe.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class KubeOptions:
    """A deployment of one plan.

    ``image`` holds Ray and raymoe, and is pinned by tag or digest. ``claim`` names a volume claim
    that many nodes can mount (ReadWriteMany); it is mounted at ``mount`` in every pod, so models,
    data and checkpoints have the same path everywhere.
    """

    name: str
    image: str
    claim: str
    namespace: str = "default"
    mount: str = "/data"
    run_file: str = ""
    """Path of the run file in the pods; a RayJob needs it."""
    model: str = ""
    """Path of the model directory in the pods; a RayService needs it."""
    plan_file: str = ""
    """Path of the plan in the pods; a RayService needs it."""
    gpu_resource: str = "nvidia.com/gpu"
    node_selectors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels of the Kubernetes nodes to use, by device kind."""
    pull_secrets: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ray_version: str = field(default_factory=lambda: version("ray"))
    """The version of Ray inside the image; KubeRay chooses its health probes by it."""
    autoscale: bool = False
    """Start worker pods when actors ask for them and stop them when idle."""
    idle_seconds: int = 300
    start_seconds: int = 3600
    """A RayJob that has not started by then is given up."""
    keep_seconds: int = 3600
    """A finished RayJob keeps its object, not its pods, for this long."""
    head_cpus: int = 2
    head_memory_bytes: int = 6 * GIB
    driver_cpus: int = 1
    """CPUs of the pod that drives the ranks: the Ray Train worker, or the Serve replica."""
    driver_memory_bytes: int = 4 * GIB
    user: int = 1000
    """User and file system group the pods run as; Ray's own images have user 1000."""

    def __post_init__(self) -> None:
        _check_image(self.image)
        for key in ("mount", "run_file", "model", "plan_file"):
            path = getattr(self, key)
            if path and not path.startswith("/"):
                raise ConfigError(
                    f"{key} is {path!r}; it is a path in the pods, give it from the root, "
                    f"like {self.mount.rstrip('/') or '/data'}/..."
                )
        for key in ("head_cpus", "driver_cpus", "head_memory_bytes", "driver_memory_bytes"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"{key} is {getattr(self, key)}; give more than 0")


def _check_image(image: str) -> None:
    last = image.rpartition("/")[2]
    tag = last.partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        raise ConfigError(
            f"image {image!r} is not pinned, so pods of one cluster could differ; "
            "give it a tag other than latest, or a digest"
        )
