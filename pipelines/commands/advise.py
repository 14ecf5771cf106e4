"""``raymoe advise``: what would run where and how fast; no Ray, no torch, no weights, no file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.errors import ConfigError, PlanError
from pipelines.planning.arguments import (
    Architecture,
    Imbalance,
    Length,
    MicroBatch,
    MicroBatches,
    NumericsName,
    ProfileFile,
    Sequences,
)
from pipelines.screen.terminal import console, say

if TYPE_CHECKING:
    from moe.config.model import ModelConfig
    from moe.planning.prediction.predict import Prediction
    from moe.planning.search.search import Question

_SCALES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def advise(
    model: Architecture,
    inventory: Annotated[Path, typer.Option(help="Inventory file: docs/guide/planning.md.")],
    profile: ProfileFile = None,
    sequence_length: Length = 512,
    micro_batch: MicroBatch = None,
    micro_batches: MicroBatches = None,
    sequences: Sequences = None,
    numerics: NumericsName = "float32",
    imbalance: Imbalance = 1.0,
    upcycle_from: Annotated[
        str | None, typer.Option(help="Dense model, a directory or a preset, to begin from.")
    ] = None,
    dense_tokens: Annotated[
        str | None, typer.Option(help="Tokens it was trained on, as 3.2T.")
    ] = None,
    moe_tokens: Annotated[
        str | None, typer.Option(help="Tokens to train the model on, as 1T.")
    ] = None,
) -> None:
    """Say what would run where and how fast, and whether to upcycle or to train from scratch."""
    from moe.planning.counts.workload import Workload
    from moe.planning.search.pins import Pins
    from moe.planning.search.search import Question
    from pipelines.planning.arguments import architecture, batch, devices_of, numerics_named

    config, there = architecture(model), devices_of(inventory, profile)
    dense = None if upcycle_from is None else architecture(upcycle_from)
    amounts = tuple(None if text is None else tokens(text) for text in (dense_tokens, moe_tokens))
    _check_budget(config, upcycle_from, *amounts)
    step = batch(sequences, micro_batch, micro_batches)
    work = Workload(
        sequence_length,
        step.micro_batch or 1,
        step.micro_batches,
        numerics=numerics_named(numerics),
        imbalance=imbalance,
        snapshots=there.of_cpus,
    )
    pins = Pins(replicas=1, micro_batch=step.micro_batch)
    question = Question(config, there, work, step.sequences, pins)
    predicted = _training(question)
    _serving(question)
    if amounts[1] is not None:
        from pipelines.planning.verdict import verdict_lines

        for line in verdict_lines(question, predicted, dense, amounts[0] or 0.0, amounts[1]):
            say(line)


def tokens(written: str) -> float:
    """Read a number of tokens: 300B, 3.2T, 5e11."""
    scale = _SCALES.get(written[-1:].upper(), 1.0)
    digits = written[:-1] if scale != 1 else written
    try:
        return float(digits.replace("_", "")) * scale
    except ValueError:
        raise ConfigError(
            f"{written!r} is no number of tokens; write it as 300B, 3.2T or 5e11"
        ) from None


def _check_budget(
    config: "ModelConfig", dense: str | None, dense_tokens: float | None, moe_tokens: float | None
) -> None:
    """Raise ConfigError where the parts of a budget are given without each other."""
    if (dense is None) != (dense_tokens is None):
        raise ConfigError(
            "--upcycle-from names the dense model, --dense-tokens what it was trained on; "
            "give both or none"
        )
    if dense is not None and moe_tokens is None:
        raise ConfigError(
            "--upcycle-from asks whether to upcycle, which depends on how long the model is then "
            "trained; give --moe-tokens"
        )
    if moe_tokens is not None and config.moe is None:
        raise ConfigError(
            "--moe-tokens is for a model with experts, which this one has not; "
            "name the mixture of experts first and the dense model with --upcycle-from"
        )


def _training(question: "Question") -> "Prediction | None":
    """Print how the model would train; None where it does not fit."""
    from moe.planning.prediction.predict import predict
    from moe.planning.search.search import search
    from pipelines.screen.comparison import facts
    from pipelines.screen.plan_table import plan_table

    try:
        found = search(question)
    except PlanError as error:
        say(f"training: {error}")
        return None
    there = question.inventory
    predicted = predict(question.config, found.plan, there, found.workload)
    console.print(plan_table(question.config, found.plan, there, predicted, brief=True))
    for line in facts(found.plan, there, predicted):
        say(f"training: {line}")
    return predicted


def _serving(question: "Question") -> None:
    """Print how much the model would serve."""
    from dataclasses import replace

    from moe.planning.prediction.predict import predict
    from moe.planning.search.search import Question, search
    from pipelines.planning.capacity import tokens_held
    from pipelines.screen.plan_table import plan_line
    from pipelines.screen.words import seconds

    config, there = question.config, question.inventory
    length = question.workload.sequence_length
    work = replace(question.workload.cut(1, 1), training=False)
    pins = replace(question.pins, micro_batch=1)
    try:
        found = search(Question(config, there, work, 1, pins, "tokens"))
    except PlanError as error:
        say(f"serving: {error}")
        return
    held = tokens_held(config, found.plan, there, found.workload)
    predicted = predict(config, found.plan, there, found.workload)
    say(f"serving: {plan_line(found.plan)}")
    say(
        f"serving: keys and values of {held:,} tokens fit, {held // length:,} sequences of "
        f"{length}; a prompt of {length} is read in {seconds(predicted.step_seconds)}"
    )
