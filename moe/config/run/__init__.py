"""A typed run: one TOML file in, frozen sections out. All defaults are here."""

from moe.config.run.balance import (
    AdaptiveCoefficient,
    BalanceSection,
    BiasCoefficient,
    Coefficient,
    FixedCoefficient,
)
from moe.config.run.cluster import ClusterSection, PlanSection
from moe.config.run.config import RunConfig
from moe.config.run.elastic import ElasticSection
from moe.config.run.files import CheckpointSection, DataKind, DataSection, ModelSection
from moe.config.run.load import dump_run, load_run, parse_run
from moe.config.run.lora import LoraSection
from moe.config.run.metrics import MetricsSection
from moe.config.run.monitor import MonitorSection
from moe.config.run.routing import RoutingSection
from moe.config.run.train import TrainSection
from moe.config.run.tuned import tuned_model
from moe.config.section import Section

__all__ = [
    "AdaptiveCoefficient",
    "BalanceSection",
    "BiasCoefficient",
    "CheckpointSection",
    "ClusterSection",
    "Coefficient",
    "DataKind",
    "DataSection",
    "ElasticSection",
    "FixedCoefficient",
    "LoraSection",
    "MetricsSection",
    "ModelSection",
    "MonitorSection",
    "PlanSection",
    "RoutingSection",
    "RunConfig",
    "Section",
    "TrainSection",
    "dump_run",
    "load_run",
    "parse_run",
    "tuned_model",
]
