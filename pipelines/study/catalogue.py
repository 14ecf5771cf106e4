"""All studies by name."""

from collections.abc import Mapping

from moe.errors import ConfigError
from pipelines.study.findings import Findings
from pipelines.study.lab import Lab
from pipelines.study.studies import (
    architectures,
    coefficients,
    gates,
    granularity,
    methods,
    published,
    redundancy,
    scratch,
    stages,
)
from pipelines.study.study import Asked, Study

STUDIES: Mapping[str, Study] = {
    module.STUDY.name: module.STUDY
    for module in (
        gates,
        coefficients,
        scratch,
        architectures,
        granularity,
        redundancy,
        methods,
        stages,
        published,
    )
}


def study_named(name: str) -> Study:
    """Return a study; ConfigError lists the names."""
    if name not in STUDIES:
        raise ConfigError(f"no study {name!r}; choose {', '.join(STUDIES)}")
    return STUDIES[name]


def asked_of(study: Study, tokens: int | None, seeds: int | None) -> Asked:
    """Return what a study is asked, by default its own; ConfigError where it trains nothing."""
    if not study.tokens and (tokens is not None or seeds is not None):
        raise ConfigError(
            f"the study {study.name} trains nothing: --tokens and --seeds have no effect; "
            "leave them out"
        )
    return Asked(
        study.tokens if tokens is None else tokens, study.seeds if seeds is None else seeds
    )


def conduct(study: Study, lab: Lab, asked: Asked) -> Findings:
    """Run every arm of a study that has no record yet, and read what they say."""
    for arm in study.arms(asked):
        lab.record(arm)
    return study.findings(lab, asked)
