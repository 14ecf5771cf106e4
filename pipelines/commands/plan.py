"""``raymoe plan``: search for the best plan, write it, show it, say it in other systems' words."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.errors import ConfigError
from pipelines.planning.arguments import (
    Architecture,
    Imbalance,
    InventoryFile,
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
    from moe.planning.counts.workload import Workload
    from moe.planning.devices.inventory import Inventory
    from moe.planning.plan.plan import Plan
    from moe.planning.search.pins import Pins
    from moe.planning.search.search import Found, Question


def plan(
    model: Architecture,
    to: Annotated[Path | None, typer.Option("--to", help="Where to write it, TOML.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Plan for the Ray cluster.")] = False,
    inventory: InventoryFile = None,
    address: Annotated[str, typer.Option(help="Of the Ray cluster; local is here.")] = "local",
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="Plan for the nodes of a Kubernetes cluster.")
    ] = False,
    context: Annotated[str | None, typer.Option(help="Of the kubeconfig; its current one.")] = None,
    nodes: Annotated[
        Path | None, typer.Option(help="Plan for what kubectl get nodes -o json wrote.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Cores of each rank on a node without GPUs.")] = 1,
    profile: ProfileFile = None,
    stages: Annotated[int | None, typer.Option(help="Pipeline stages; the best.")] = None,
    gang: Annotated[int | None, typer.Option(help="Ranks of each stage; the best.")] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            help="Fix a part: stages, gang, replicas, micro_batch = 4, layers, recompute = 15,15, "
            "order = a/0,b/0 (first device of each stage); again for more."
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Fix the layers by a Megatron layout: Et*15|t*15L.")
    ] = None,
    any_replicas: Annotated[
        bool,
        typer.Option(
            "--any-replicas",
            help="Search the number of data-parallel replicas too; one otherwise.",
        ),
    ] = False,
    objective: Annotated[
        str | None,
        typer.Option(help="step, memory, or to serve tokens; step, with --serving tokens."),
    ] = None,
    serving: Annotated[bool, typer.Option("--serving", help="Plan to serve only.")] = False,
    sequence_length: Length = 512,
    micro_batch: MicroBatch = None,
    micro_batches: MicroBatches = None,
    sequences: Sequences = None,
    chunks: Annotated[
        int, typer.Option(help="Runs of layers of each stage; zbv has 2, 1f1b and gpipe 1.")
    ] = 1,
    schedule: Annotated[
        str, typer.Option(help="gpipe, 1f1b, interleaved-1f1b, zero-bubble or zbv.")
    ] = "1f1b",
    numerics: NumericsName = "float32",
    imbalance: Imbalance = 1.0,
    emit: Annotated[
        str | None,
        typer.Option(help="Print the layers for megatron, vllm, llama.cpp or torchtitan only."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Draw the plan into this page too.")] = None,
    near: Annotated[
        Path | None,
        typer.Option(help="An old plan: of equal plans take the one that moves the least from it."),
    ] = None,
) -> None:
    """Decide who holds what; print it with the predicted step, and what else was near."""
    from moe.planning.counts.workload import Workload
    from moe.planning.plan.file import load_plan, save_plan
    from moe.planning.search.chunked import searchable
    from moe.planning.search.search import Question, search
    from pipelines.planning.arguments import architecture, batch, numerics_named
    from pipelines.planning.chunking import check_chunking, chunked
    from pipelines.planning.pinned import layers_of_layout, pins_from, replicas_of
    from pipelines.planning.sources import Source

    source = Source(inventory, ray, kubernetes, nodes, address, context, threads)
    if to is None and emit is None:
        raise ConfigError("give --to FILE for the plan, or --emit FORM to print its layers alone")
    config = architecture(model)
    options = (
        ("--stages", "stages", stages),
        ("--gang", "gang", gang),
        ("--micro-batch", "micro_batch", micro_batch),
        ("--layout", "layers", layers_of_layout(layout, config.layers)),
    )
    pins = replicas_of(pins_from(pin or (), options), any_replicas)
    step = batch(sequences, pins.micro_batch, micro_batches, pins.replicas or 1)
    there = source.devices(profile)
    workload = Workload(
        sequence_length,
        step.micro_batch or 1,
        step.micro_batches,
        training=not serving,
        schedule=schedule,
        numerics=numerics_named(numerics),
        imbalance=imbalance,
        snapshots=there.of_cpus,
    )
    question = Question(
        config,
        there,
        searchable(workload, pins.depth),
        step.sequences,
        with_micro_batch(pins, step.micro_batch),
        chosen_objective(objective, serving),
        load_plan(near) if near else None,
    )
    check_chunking(question, workload, chunks)
    found = chunked(question, search(question), schedule, chunks)
    if to is not None:
        save_plan(found.plan, to)
    if html is not None:
        draw(html, config, found.plan, there, found.workload)
    if emit is not None:
        _emit(emit, found.plan)
    else:
        show(question, found)
    for path in (to, html):
        if path is not None and emit is None:
            say(f"wrote {path}")


def chosen_objective(name: str | None, serving: bool) -> str:
    """Return the objective: the one given where it makes sense, else the usual one."""
    from moe.config.overrides import hint
    from moe.planning.search.pins import OBJECTIVES

    if name is None:
        return "tokens" if serving else "step"
    if name not in OBJECTIVES:
        raise ConfigError(f"no objective {name!r}; {hint(name, OBJECTIVES)}")
    if name == "tokens" and not serving:
        raise ConfigError(
            "the objective tokens counts keys and values that a server holds; add --serving"
        )
    return name


def with_micro_batch(pins: "Pins", micro_batch: int | None) -> "Pins":
    """Return the pins with the size of a micro-batch where it is not open."""
    from dataclasses import replace

    return replace(pins, micro_batch=micro_batch)


def show(question: "Question", found: "Found") -> None:
    """Print a plan, its prediction, and the alternatives."""
    from moe.planning.prediction.predict import predict
    from moe.planning.search.make import even_layers
    from pipelines.screen.comparison import alternatives_table
    from pipelines.screen.plan_table import plan_picture

    config, there, work = question.config, question.inventory, found.workload
    predicted = predict(config, found.plan, there, work)
    even = predict(config, even_layers(found.plan), there, work)
    console.print(plan_picture(config, found.plan, there, predicted, even))
    for line in _notes(question, found):
        say(line)
    table = alternatives_table(found, question.objective)
    if table is not None:
        console.print(table)


def draw(
    path: Path, config: "ModelConfig", plan: "Plan", there: "Inventory", workload: "Workload"
) -> None:
    """Write the page of a plan."""
    from moe.planning.prediction.predict import predict
    from moe.planning.search.make import even_layers
    from pipelines.screen.plan_page import write_page

    predicted = predict(config, plan, there, workload)
    even = predict(config, even_layers(plan), there, workload)
    write_page(path, config, plan, there, predicted, even)


def _moved(question: "Question", found: "Found") -> str:
    """Say what changes owner between the old plan and the one found."""
    from moe.planning.moves.difference import diff

    assert question.near is not None
    there = question.inventory
    moved = diff(question.config, question.near, found.plan, found.workload, there)
    devices = len(moved.received)
    return (
        f"from the old plan: {moved.bytes / 1e9:.3g} GB to {devices} devices "
        f"(weights {moved.weight_bytes / 1e9:.3g}, optimiser {moved.optimizer_bytes / 1e9:.3g})"
    )


def _notes(question: "Question", found: "Found") -> list[str]:
    """Return what a person should know of how the plan was found, and of its use."""
    from pipelines.planning.capacity import tokens_held
    from pipelines.planning.chunking import moved_notes

    plan, work = found.plan, found.workload
    notes = moved_notes(found)
    if not work.training:
        held = tokens_held(question.config, plan, question.inventory, work)
        notes.append(f"keys and values of {held:,} tokens fit beside the weights")
    if question.pins.micro_batch is None and work.training:
        notes.append(f"train it with train.micro_batch = {work.micro_batch}")
    if plan.replicas > 1:
        notes.append(
            f"{plan.replicas} replicas: this version simulates them, it trains and serves one"
        )
    if found.node_by_node:
        notes.append("so many nodes: devices are taken node by node, other orders were not tried")
    if not (found.alternatives or (question.pins.gang and question.pins.depth)):
        notes.append("no other shape comes near")
    if found.node_by_node:
        notes.append("alike devices are taken node by node; other orders of nodes were not tried")
    if question.near is not None:
        notes.append(_moved(question, found))
    if found.gap > 0:
        notes.append(f"not proved the best: another may be {found.gap:.1%} better at most")
    return notes


def _emit(form: str, plan: "Plan") -> None:
    """Print the value alone on stdout, and the option that takes it on stderr."""
    from moe.planning.plan.other_systems import FORMS, emit

    several = plan.chunks > 1
    value = emit(form, plan.chunk_runs, ("V" if plan.folded else "loop") if several else None)
    size = f" with --pipeline-model-parallel-size {len(plan.stages)}"
    typer.echo(FORMS[form].option + size * (several and form == "megatron"), err=True)
    typer.echo(value)
