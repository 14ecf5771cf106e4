"""``raymoe advise``: what would run where and how fast; no Ray, no torch, no weights, no file."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.errors import ConfigError, PlanError
from pipelines.commands.arguments import (
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
    inventory: Annotated[
        Path, typer.Option(help="Inventory file (TOML); docs/guide/planning.md describes it.")
    ],
    profile: ProfileFile = None,
    sequence_length: Length = None,
    micro_batch: MicroBatch = None,
    micro_batches: MicroBatches = None,
    sequences: Sequences = None,
    numerics: NumericsName = "float32",
    imbalance: Imbalance = 1.0,
    upcycle_from: Annotated[
        str | None,
        typer.Option(
            help="Dense model (a directory or a preset) that the mixture of experts could be "
            "upcycled from."
        ),
    ] = None,
    dense_tokens: Annotated[
        str | None,
        typer.Option(help="Tokens that the dense model was trained on: 300B, 3.2T or 5e11."),
    ] = None,
    moe_tokens: Annotated[
        str | None,
        typer.Option(help="Tokens that the mixture of experts will be trained on, written alike."),
    ] = None,
) -> None:
    """Answer before there is a cluster: how fast a model would train and serve, what to upcycle.

    Prints the best plans for training and for serving on an inventory; with a
    dense model, also whether to upcycle it. Starts neither Ray nor torch.

    Example: raymoe advise deepseek-moe-16b --numerics bf16
    --inventory manifests/inventories/example.toml
    """
    from moe.planning.search.pins import Pins
    from moe.planning.search.question import Question, check_question
    from pipelines.commands.arguments import Work, architecture, batch, devices_of

    dense_seen, moe_seen = (
        tokens("--dense-tokens", dense_tokens),
        tokens("--moe-tokens", moe_tokens),
    )
    asked = Work(sequence_length, numerics, imbalance)
    step = batch(sequences, micro_batch, micro_batches)
    config, there = architecture(model), devices_of(inventory, profile)
    dense = None if upcycle_from is None else architecture(upcycle_from)
    _check_budget(config, dense, dense_seen, moe_seen)
    pins = Pins(replicas=1, micro_batch=step.micro_batch)
    question = Question(config, there, asked.workload(config, step, there), step.sequences, pins)
    check_question(question)
    predicted = _training(question)
    _serving(question)
    if moe_seen is not None:
        from pipelines.planning.verdict import verdict_lines

        for line in verdict_lines(question, predicted, dense, dense_seen or 0.0, moe_seen):
            say(line)


def tokens(option: str, written: str | None) -> float | None:
    """Read a number of tokens, as 300B, 3.2T or 5e11; None where it is not given."""
    if written is None:
        return None
    scale = _SCALES.get(written[-1:].upper(), 1.0)
    digits = written[:-1] if scale != 1 else written
    try:
        found = float(digits.replace("_", "")) * scale
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise ConfigError(
            f"{option} is {written!r}, which is no number of tokens; write 300B, 3.2T or 5e11"
        )
    return found


def _check_budget(
    config: "ModelConfig",
    dense: "ModelConfig | None",
    dense_tokens: float | None,
    moe_tokens: float | None,
) -> None:
    """Raise ConfigError where the parts of a budget contradict each other."""
    if dense is not None and dense.moe is not None:
        raise ConfigError(
            f"--upcycle-from names a model with {dense.moe.experts} experts; name a dense model"
        )
    if (dense is None) != (dense_tokens is None):
        raise ConfigError(
            "--upcycle-from names a dense model and --dense-tokens how long it was trained; give "
            "both or none"
        )
    if dense is not None and moe_tokens is None:
        raise ConfigError(
            "whether to upcycle depends on how long the mixture of experts is trained; give "
            "--moe-tokens beside --upcycle-from"
        )
    if moe_tokens is not None and config.moe is None:
        raise ConfigError(
            "--moe-tokens is for a model with experts, but this model is dense; name the mixture "
            "of experts first, and the dense model with --upcycle-from"
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
    config, width = question.config, console.width
    console.print(plan_table(config, found.plan, there, predicted, brief=True, width=width))
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
        f"serving: the key-value cache of {held:,} tokens fits, which is {held // length:,} "
        f"sequences of {length}; a prompt of {length} tokens is read in "
        f"{seconds(predicted.step_seconds)}"
    )
