"""The volume that every pod mounts, and the locations of files in it."""

from posixpath import join, normpath

from pydantic import Field, field_validator

from cluster.kuberay.deployment.names import ObjectName
from moe.config.section import Section


class StorageSection(Section):
    """One volume for models, token shards and checkpoints, mounted at one path in every pod."""

    claim: ObjectName
    """A PersistentVolumeClaim that many nodes can mount at once (access mode ReadWriteMany)."""
    mount: str = "/data"
    """Where every pod mounts the claim."""

    @field_validator("mount")
    @classmethod
    def _from_the_root(cls, mount: str) -> str:
        if not mount.startswith("/") or normpath(mount) == "/":
            raise ValueError("give a path from the root, like /data")
        return normpath(mount)


class PathsSection(Section):
    """Files and directories in the pods. A relative path starts at ``storage.mount``."""

    run: str = Field(default="run.toml", min_length=1)
    """The run file that the RayJob trains."""
    model: str = Field(default="model", min_length=1)
    """The model directory that the RayService answers from."""
    plan: str = Field(default="plan.toml", min_length=1)
    """The plan of the RayService. (A run file names its own plan.)"""

    def below(self, mount: str) -> "PathsSection":
        """Return the same paths from the root of a pod's file system."""
        run, model, plan = (join(mount, path) for path in (self.run, self.model, self.plan))
        return PathsSection(run=run, model=model, plan=plan)
