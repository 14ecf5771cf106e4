"""The container image of every pod."""

from importlib.metadata import version

from pydantic import Field, field_validator

from cluster.kuberay.deployment.names import ObjectName
from moe.config.section import Section


class ImageSection(Section):
    """The image of every pod: Ray, raymoe and their dependencies."""

    name: str
    """The image with its tag or digest, like ``registry.example/raymoe:0.1.0``. Without a tag, or
    with the tag ``latest``, pods of one cluster could run different code, so both are refused."""
    pull_secrets: list[ObjectName] = Field(default=[])
    """Names of Secrets with the credentials of a private registry."""
    ray_version: str = Field(default_factory=lambda: version("ray"))
    """The version of Ray in the image. The default is the version installed here. KubeRay chooses
    its health probes by this version.
    """

    @field_validator("name")
    @classmethod
    def _pinned(cls, name: str) -> str:
        tag = name.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in name and tag in ("", "latest"):
            raise ValueError(
                "the image is not pinned, so pods of one cluster could differ; give it a tag "
                "other than latest, or a digest"
            )
        return name
