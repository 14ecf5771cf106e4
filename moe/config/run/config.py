"""One run: all its sections, and the rules between them and the model."""

import re

from pydantic import field_validator, model_validator

from moe.config.model import ModelConfig
from moe.config.run.balance import BalanceSection, BiasCoefficient
from moe.config.run.cluster import ClusterSection, PlanSection
from moe.config.run.elastic import ElasticSection
from moe.config.run.files import CheckpointSection, DataSection, ModelSection
from moe.config.run.metrics import MetricsSection
from moe.config.run.monitor import MonitorSection
from moe.config.run.routing import RoutingSection
from moe.config.run.train import TrainSection
from moe.config.section import Section
from moe.errors import ConfigError

_PLAIN = ("1f1b", "gpipe")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")
"""A name is part of the names of actors, jobs and Kubernetes objects."""


class RunConfig(Section):
    """One run file."""

    name: str
    model: ModelSection
    data: DataSection
    train: TrainSection
    checkpoint: CheckpointSection
    routing: RoutingSection = RoutingSection()
    balance: BalanceSection = BalanceSection()
    monitor: MonitorSection = MonitorSection()
    plan: PlanSection = PlanSection()
    cluster: ClusterSection = ClusterSection()
    elastic: ElasticSection = ElasticSection()
    metrics: MetricsSection = MetricsSection()

    @field_validator("name")
    @classmethod
    def _suits_kubernetes(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "a name has 1 to 47 characters: lower-case letters, digits and hyphens, a letter "
                "first and no hyphen last"
            )
        return name

    @property
    def balances(self) -> bool:
        """Whether balance losses and coefficients have an effect; False if experts choose."""
        return self.routing.choose == "tokens"

    @model_validator(mode="after")
    def _no_balance_where_experts_choose(self) -> "RunConfig":
        only_z = BalanceSection(z_loss=self.balance.z_loss)
        if self.routing.choose == "experts" and self.balance != only_z:
            raise ValueError(
                "experts choose (routing.choose), which loads experts evenly, so of [balance] "
                "only z_loss has an effect; remove its other keys, or let tokens choose"
            )
        return self

    @model_validator(mode="after")
    def _projectors_stay(self) -> "RunConfig":
        """Check that nothing cuts or moves the projectors of experts, which lie whole on a rank."""
        if self.train.orthogonal is None:
            return self
        asked = {
            "plan.replicas above 1": self.plan.replicas > 1,
            "elastic.copy_every other than 0": self.elastic.copies,
            "elastic.rebalance_every": self.elastic.rebalance_every > 0,
            "elastic.follow_nodes": self.elastic.follow_nodes,
        }
        if found := [name for name, given in asked.items() if given]:
            raise ValueError(
                "train.orthogonal projects whole rows of an expert, with projectors that lie on "
                "the rank of the expert; replicas cut rows, and copies and moves do not carry the "
                f"projectors. It does not go with {', '.join(found)}: remove these, or "
                "train.orthogonal"
            )
        return self

    @model_validator(mode="after")
    def _what_deepspeed_takes(self) -> "RunConfig":
        """Check that nothing is asked of DeepSpeed that only raymoe's own engine does."""
        if self.train.engine == "raymoe":
            return self
        usual, cluster = ClusterSection(), self.cluster
        asked = {
            "plan.path": self.plan.path is not None,
            "plan.stages above 1": self.plan.stages > 1,
            "plan.gang above 1": self.plan.gang > 1,
            "plan.chunks above 1": self.plan.chunks > 1,
            "plan.profile": self.plan.profile is not None,
            "plan.least_replicas": self.plan.least_replicas is not None,
            "train.schedule": self.train.schedule != "1f1b",
            'train.precision = "bf16"': self.train.precision == "bf16",
            "train.orthogonal": self.train.orthogonal is not None,
            'balance.coefficient.type = "bias"': isinstance(
                self.balance.coefficient, BiasCoefficient
            ),
            "monitor.every": self.monitor.every > 0,
            "[elastic]": self.elastic != ElasticSection(),
            "cluster.max_failures": cluster.max_failures not in (0, usual.max_failures),
            "cluster.wait_seconds": cluster.wait_seconds is not None,
            "cluster.group_seconds": cluster.group_seconds != usual.group_seconds,
        }
        if found := [name for name, given in asked.items() if given]:
            raise ValueError(
                f'train.engine = "deepspeed" does not take {", ".join(found)}: each of its workers '
                "has the whole model, in float32, and a worker that is lost ends the run; remove "
                'these, or set train.engine = "raymoe"'
            )
        part = self.train.micro_batch * self.plan.replicas
        if self.train.global_batch % part:
            raise ValueError(
                f"train.global_batch {self.train.global_batch} is not a multiple of micro_batch x "
                f"plan.replicas = {part}: DeepSpeed gives each worker as many micro-batches"
            )
        return self

    @model_validator(mode="after")
    def _schedule_of_the_stages(self) -> "RunConfig":
        """Check the schedule against the stages; the spans of a plan file are checked with the
        plan.
        """
        if self.plan.path is not None:
            return self
        schedule, chunks = self.train.schedule, self.plan.chunks
        asked = f'train.schedule = "{schedule}" with plan.chunks = {chunks}'
        if self.plan.stages == 1 and (schedule not in _PLAIN or chunks > 1):
            raise ValueError(
                f"{asked} reduces the bubbles of a pipeline, but with plan.stages = 1 there is no "
                'pipeline; raise plan.stages, or remove both (or set train.schedule = "gpipe")'
            )
        needed = {"gpipe": 1, "1f1b": 1, "zbv": 2}.get(schedule, chunks)
        if chunks != needed:
            advice = f"set plan.chunks to {needed}"
            if needed == 1:
                advice += ', or choose train.schedule = "interleaved-1f1b" or "zero-bubble"'
            raise ValueError(
                f"{asked}: this schedule takes stages of {needed} spans of layers (plan.chunks); "
                f"{advice}"
            )
        return self

    def check_model(self, model: ModelConfig) -> None:
        """Raise ConfigError if an option has no effect on a model, or the model lacks something
        needed.
        """
        if self.train.orthogonal is not None and model.experts < 2:
            raise ConfigError(
                f"{self.model.path} has {model.experts} experts in a layer, train.orthogonal needs "
                "2 or more, each of which avoids the others' inputs; remove it, or upcycle it first"
            )
        if model.moe is None:
            self._check_untouched("is a dense model", "remove them, or upcycle the model first")
        elif model.moe.hashed:
            self._check_hashed()
        elif model.moe.merged:
            self._check_merged()
        else:
            self._check_experts(model)

    def _check_untouched(self, what: str, advice: str) -> None:
        if (self.routing, self.balance) != (RoutingSection(), BalanceSection()):
            raise ConfigError(
                f"{self.model.path} {what}, on which [routing] and [balance] have no effect; "
                f"{advice}"
            )

    def _check_hashed(self) -> None:
        """Raise if options need a gate or scores, which a hash does not have."""
        if self.balance != BalanceSection() or self.routing.choose == "experts":
            raise ConfigError(
                f"{self.model.path} hashes tokens to experts, on which [balance] and "
                'routing.choose = "experts" have no effect; remove them'
            )
        if self.routing.drop_policy == "position":
            raise ConfigError(
                f"{self.model.path} hashes tokens to experts, all with equal weights: among equal "
                "weights later tokens are always dropped; remove routing.drop_policy"
            )

    def _check_merged(self) -> None:
        """Raise if options are of tokens that are sent to experts, which merged experts do not
        have.
        """
        what = "merges its experts for segments of tokens"
        self._check_untouched(what, "remove them")
        if self.train.orthogonal is not None:
            raise ConfigError(
                f"{self.model.path} {what}, all of which see all inputs: train.orthogonal would "
                "leave no direction to any; remove it"
            )
        if self.elastic.rebalance_every:
            raise ConfigError(
                f"{self.model.path} {what}, and every rank has its columns of all of them: "
                "elastic.rebalance_every has no expert to move; remove it"
            )
        if self.monitor.every:
            raise ConfigError(
                f"{self.model.path} {what}, and each rank has only columns of them: monitor.every "
                "compares whole experts; remove it and use `raymoe inspect` on checkpoints"
            )

    def _check_experts(self, model: ModelConfig) -> None:
        moe, groups = model.moe, self.balance.device_groups
        assert moe is not None
        if isinstance(self.balance.coefficient, BiasCoefficient) and not moe.balance_bias:
            raise ConfigError(
                f"{self.model.path} has no balance bias to move; upcycle with a balance bias into "
                "the raymoe family, or choose another balance.coefficient.type"
            )
        if groups > moe.experts:
            raise ConfigError(
                f"balance.device_groups is {groups} but {self.model.path} has {moe.experts} "
                "experts; give at most one group for each"
            )
        if self.routing.choose == "experts" and moe.balance_bias:
            raise ConfigError(
                f"{self.model.path} has a balance bias on the choice of tokens, which experts that "
                "choose do not heed; let tokens choose, or upcycle without it"
            )
        if self.routing.choose == "experts" and moe.groups > 1:
            raise ConfigError(
                f"{self.model.path} limits a token to {moe.top_groups} of {moe.groups} groups of "
                "experts, which experts that choose do not heed; let tokens choose"
            )
