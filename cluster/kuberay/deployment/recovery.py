"""What outlives the pod of Ray's head, and who watches a cluster."""

from typing import Literal

from pydantic import Field, model_validator

from cluster.kuberay.deployment.names import ObjectName
from moe.config.section import Section


class RecoverySection(Section):
    """Where Ray's head keeps its state, so that a new head pod finds the cluster as it was."""

    backend: Literal["none", "redis", "rocksdb"] = "none"
    """``none``: the cluster ends with its head. ``redis``: a Redis that outlives the head.
    ``rocksdb``: a volume of the head pod; an alpha of KubeRay behind the feature gate
    ``GCSFaultToleranceEmbeddedStorage``."""
    redis_address: str | None = Field(default=None, min_length=1)
    """HOST:PORT of the Redis, or ``redis://HOST:PORT``; ``rediss://`` for TLS."""
    redis_secret: ObjectName | None = None
    """A Secret whose key ``redis_secret_key`` has the password of the Redis."""
    redis_secret_key: str = Field(default="password", min_length=1)
    rocksdb_gib: int | None = Field(default=None, gt=0)
    """Size of the volume for ``rocksdb``, in GiB."""
    rocksdb_storage_class: ObjectName | None = None
    """Its StorageClass. Default: that of the cluster."""

    @model_validator(mode="after")
    def _keys_of_the_backend(self) -> "RecoverySection":
        fields = type(self).model_fields
        for key in fields:
            of = key.partition("_")[0]
            other = of in ("redis", "rocksdb") and of != self.backend
            if other and getattr(self, key) != fields[key].default:
                raise ValueError(f'{key} is for backend = "{of}"; remove it, or set that')
        if self.backend == "redis" and self.redis_address is None:
            raise ValueError('backend = "redis" needs redis_address, as redis.example:6379')
        if self.backend == "rocksdb" and self.rocksdb_gib is None:
            raise ValueError('backend = "rocksdb" needs rocksdb_gib, such as 10')
        if self.redis_secret is None and self.redis_secret_key != "password":
            raise ValueError("redis_secret_key has no effect without redis_secret; give that")
        return self


class MonitoringSection(Section):
    """Where the Ray dashboard finds Prometheus and Grafana, for its Metrics tab."""

    prometheus_host: str | None = Field(default=None, min_length=1)
    """URL of Prometheus as the head pod reaches it: ``http://prometheus.monitoring:9090``."""
    grafana_host: str | None = Field(default=None, min_length=1)
    """URL of Grafana as the head pod reaches it."""
    grafana_iframe_host: str | None = Field(default=None, min_length=1)
    """URL of Grafana as your browser reaches it. Default: ``grafana_host``."""
    history_image: str | None = Field(default=None, min_length=1)
    """Image of the collector of KubeRay's history server, which keeps what the dashboard shows
    after the cluster is gone; an alpha of KubeRay behind a feature gate. Default: none."""
    history_environment: dict[str, str] = Field(default={})
    """Environment variables of the collector, such as the bucket that it writes to."""
    history_secret: ObjectName | None = None
    """A Secret with the keys by which the collector may write there."""
    history_secret_keys: list[str] = Field(default=["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    """The keys of that Secret, each an environment variable of the collector."""

    @model_validator(mode="after")
    def _pairs(self) -> "MonitoringSection":
        if self.grafana_iframe_host and not self.grafana_host:
            raise ValueError("grafana_iframe_host has no effect without grafana_host; give both")
        if self.history_environment and not self.history_image:
            raise ValueError("history_environment has no effect without history_image; give both")
        if self.history_secret and not self.history_image:
            raise ValueError("history_secret has no effect without history_image; give both")
        keys = type(self).model_fields["history_secret_keys"].default
        if self.history_secret is None and self.history_secret_keys != keys:
            raise ValueError("history_secret_keys has no effect without history_secret; give both")
        return self
