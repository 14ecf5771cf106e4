"""The volumes that pods mount: one that all share, and others."""

from posixpath import join, normpath

from pydantic import Field, field_validator, model_validator

from cluster.kuberay.deployment.names import ObjectName
from cluster.kuberay.names import is_name
from moe.config.section import Section

OURS = ("storage", "config", "shm", "tmp")
"""Names of volumes that raymoe makes itself."""


def mount_point(path: str) -> str:
    """Return a path from the root, without a slash at its end; ValueError for any other."""
    if not path.startswith("/") or normpath(path) == "/":
        raise ValueError("give a path from the root, like /data")
    return normpath(path)


class StorageSection(Section):
    """One volume for models, token shards and checkpoints, mounted at one path in every pod."""

    claim: ObjectName
    """A PersistentVolumeClaim that many nodes can mount at once (access mode ReadWriteMany)."""
    mount: str = "/data"
    """Where every pod mounts the claim."""

    @field_validator("mount")
    @classmethod
    def _from_the_root(cls, mount: str) -> str:
        return mount_point(mount)

    def inside(self, path: str) -> str:
        """Return a path in the pods; a relative one starts at the mount."""
        return normpath(join(self.mount, path))


class Volume(Section):
    """One more volume that head, driver and rank pods mount. Exactly one source must be given."""

    name: str
    """A name of its own: lower-case letters, digits and dashes."""
    mount: str
    """Where pods mount it."""
    read_only: bool = False
    """Whether pods may only read it."""
    claim: ObjectName | None = None
    """Source: a PersistentVolumeClaim."""
    secret: ObjectName | None = None
    """Source: a Secret, each key a file."""
    config_map: ObjectName | None = None
    """Source: a ConfigMap, each key a file."""
    memory_gib: int | None = Field(default=None, gt=0)
    """Source: a scratch directory in memory, which counts as memory of the pod."""
    disk_gib: int | None = Field(default=None, gt=0)
    """Source: a scratch directory on the disk of the node."""
    csi_driver: str | None = Field(default=None, min_length=1)
    """Source: a CSI driver that makes the volume with the pod, such as those that mount a bucket
    (``gcsfuse.csi.storage.gke.io``)."""
    csi_attributes: dict[str, str] = Field(default={})
    """What the driver is told, such as ``bucketName``."""

    @field_validator("mount")
    @classmethod
    def _from_the_root(cls, mount: str) -> str:
        return mount_point(mount)

    @model_validator(mode="after")
    def _has_one_source(self) -> "Volume":
        if not is_name(self.name) or self.name in OURS:
            raise ValueError(
                f"{self.name!r} is no name for a volume; give lower-case letters, digits and "
                f"dashes, and none of {', '.join(OURS)}"
            )
        kinds = ("claim", "secret", "config_map", "memory_gib", "disk_gib", "csi_driver")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"volume {self.name} has {' and '.join(given) or 'no source'}; give one of "
                f"{', '.join(kinds)}"
            )
        if self.csi_attributes and self.csi_driver is None:
            raise ValueError(f"volume {self.name} has csi_attributes without csi_driver; give both")
        return self
