"""A run's model as the run trains it: frozen tensors and factors, checked against the model."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from moe.config.model import ModelConfig
from moe.config.run.balance import BiasCoefficient
from moe.config.run.config import RunConfig
from moe.config.tensors import TensorSlice, tensors
from moe.config.tuning import Tuning, targets_of
from moe.errors import ConfigError

_NEAR = 3
_NUMBER = re.compile(r"\d+")


def tuned_model(run: RunConfig, model: ModelConfig) -> ModelConfig:
    """Return the architecture of a run with what of it is trained; ConfigError where an option
    has no effect on the model, or nothing is left to train.
    """
    tuning = run.train.tuning
    if tuning is None:
        return model
    parts = tensors(model)
    if tuning.lora is None:
        _check_patterns(run, tuning, parts)
    else:
        _check_targets(run, tuning.lora.targets, parts)
    if model.moe is not None and model.moe.merged:
        _check_merged(run, tuning, parts)
    biases = [each.name for each in parts if each.role.part == "balance_bias"]
    moved = next((name for name in biases if tuning.freezes(name)), None)
    if moved is not None and isinstance(run.balance.coefficient, BiasCoefficient):
        raise ConfigError(
            f"balance.coefficient of type bias moves {moved}, which the run freezes; choose "
            "another balance.coefficient.type, or do not freeze it"
        )
    return replace(model, tuning=tuning)


def _check_patterns(run: RunConfig, tuning: Tuning, parts: Sequence[TensorSlice]) -> None:
    names = [each.name for each in parts]
    for pattern in tuning.freeze:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"train.freeze has {pattern!r}, which no tensor of {run.model.path} is named like; "
                f"near it are {', '.join(_near(pattern, names))}"
            )
    if all(tuning.freezes(each.name) for each in parts if each.role.trained):
        raise ConfigError(
            f"train.freeze matches every tensor of {run.model.path}, so nothing is left to train; "
            "freeze fewer"
        )


def _check_targets(run: RunConfig, targets: Iterable[str], parts: Sequence[TensorSlice]) -> None:
    there = {target for each in parts for target in targets_of(each.role)}
    for target in targets:
        if target not in there:
            raise ConfigError(
                f"train.lora.targets has {target!r}, which {run.model.path} has none of; it has "
                f"{', '.join(sorted(there))}"
            )


def _check_merged(run: RunConfig, tuning: Tuning, parts: Sequence[TensorSlice]) -> None:
    """Raise ConfigError where experts that are merged would differ in what is trained of them."""
    lora = tuning.lora
    if lora is not None and {"experts", "router"} & {*lora.targets}:
        raise ConfigError(
            f"the experts of {run.model.path} are merged for segments of tokens, and have no "
            "factors, nor have their routers; leave experts and router out of train.lora.targets"
        )
    of_experts: dict[int | None, set[bool]] = {}
    for part in parts:
        if part.role.expert is not None:
            of_experts.setdefault(part.role.layer, set()).add(tuning.freezes(part.name))
    mixed = sorted(
        layer for layer, found in of_experts.items() if layer is not None and len(found) > 1
    )
    if mixed:
        raise ConfigError(
            f"train.freeze matches some matrices of the experts of layer {mixed[0]}, which are "
            "merged for segments of tokens; freeze all of a layer's experts or none"
        )


def _near(pattern: str, names: Iterable[str]) -> list[str]:
    """Return names like a pattern, layers and experts written as ``*``."""
    known = list(dict.fromkeys(_NUMBER.sub("*", name) for name in names))
    return difflib.get_close_matches(_NUMBER.sub("*", pattern), known, n=_NEAR, cutoff=0.0)
