"""``raymoe plan``: search for the best plan; show it, keep it, print it for other systems."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.errors import ConfigError
from pipelines.commands.planning_arguments import (
    Architecture,
    Imbalance,
    InventoryFile,
    Length,
    MicroBatch,
    MicroBatches,
    NumericsName,
    Page,
    ProfileFile,
    Schedule,
    Sequences,
)
from pipelines.planning.output import output

if TYPE_CHECKING:
    from moe.config.model import ModelConfig
    from moe.planning.search.pins import Pins
    from pipelines.commands.planning_arguments import Batch
    from pipelines.planning.wanted import Wanted

_SEARCHED = "searched"

EXAMPLE = (
    "raymoe plan deepseek-moe-16b --numerics bf16 "
    "--inventory manifests/inventories/example.toml --to plan.toml"
)


def plan(
    model: Architecture,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            help="Also write the plan into this file (TOML); replaced where it exists.",
        ),
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Plan for the nodes of a Ray cluster.")
    ] = False,
    inventory: InventoryFile = None,
    address: Annotated[
        str, typer.Option(help="Address of the Ray cluster; local starts one on this machine.")
    ] = "local",
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="Plan for the nodes of a Kubernetes cluster.")
    ] = False,
    context: Annotated[
        str | None,
        typer.Option(
            help="Context of the kubeconfig, for --kubernetes.", show_default="the current context"
        ),
    ] = None,
    nodes: Annotated[
        Path | None,
        typer.Option(help="Plan for the nodes in this output of `kubectl get nodes -o json`."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU cores of each rank on nodes without GPUs.", show_default="1"),
    ] = None,
    profile: ProfileFile = None,
    stages: Annotated[
        int | None, typer.Option(help="Number of pipeline stages.", show_default=_SEARCHED)
    ] = None,
    gang: Annotated[
        int | None,
        typer.Option(
            help="Ranks of each stage: its tensor and expert parallel group.",
            show_default=_SEARCHED,
        ),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            help="Fix a part of the plan: stages=4, gang=2, replicas=4, micro_batch=4, "
            "layers=15,15, recompute=4,0 (layers of each stage), order=a/0,b/0 (first device of "
            "each stage). May be given several times."
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Fix the layers of each stage by a Megatron layout, as Et*15|t*15L."),
    ] = None,
    any_replicas: Annotated[
        bool,
        typer.Option(
            "--any-replicas", help="Also search the number of data parallel replicas, which is 1."
        ),
    ] = False,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What is best: step (least seconds of a step), memory (least full devices) or "
            "tokens (most tokens in the key-value cache).",
            show_default="step; tokens with --serving",
        ),
    ] = None,
    serving: Annotated[
        bool, typer.Option("--serving", help="Plan for serving alone, without training.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            help="With --serving: count matrices as int8, int4, fp8 or fp8-blocks, and the rest in "
            "16 bits, for a server that holds them so.",
            show_default="float32, as raymoe serve",
        ),
    ] = None,
    sequence_length: Length = None,
    micro_batch: MicroBatch = None,
    micro_batches: MicroBatches = None,
    sequences: Sequences = None,
    chunks: Annotated[
        int,
        typer.Option(
            help="Spans of layers of each stage (Megatron's virtual stages): 1 for 1f1b and gpipe, "
            "2 for zbv."
        ),
    ] = 1,
    schedule: Schedule = "1f1b",
    numerics: NumericsName = "float32",
    imbalance: Imbalance = 1.0,
    emit: Annotated[
        str | None,
        typer.Option(
            help="Print only the layers of each stage, in the form of another system: megatron, "
            "vllm, llama.cpp or torchtitan."
        ),
    ] = None,
    html: Page = None,
    near: Annotated[
        Path | None,
        typer.Option(
            help="Previous plan. Among equally good plans, choose the one that moves the least "
            "data from it."
        ),
    ] = None,
) -> None:
    """Search for the plan with the shortest step, and print it with its memory and seconds.

    A plan says which device holds which layers, attention heads and experts.
    Devices come from one of --inventory, --ray, --kubernetes and --nodes.
    """
    from moe.planning.plan.file import load_plan, save_plan
    from moe.planning.search.chunked import searchable
    from moe.planning.search.search import Question, search
    from pipelines.commands.findings import check_form, draw, emitted_layers, print_emitted, show
    from pipelines.commands.planning_arguments import (
        Work,
        architecture,
        at_least_one,
        batch,
    )
    from pipelines.commands.sources import Source
    from pipelines.planning.chunking import check_chunking, chunked
    from pipelines.planning.pinned import layers_of_layout, pins_from, replicas_of

    source = Source(inventory, ray, kubernetes, nodes, address, context, threads)
    files = {"--to": to, "--html": html}
    written = [output(option, path) for option, path in files.items() if path is not None]
    at_least_one(stages=stages, gang=gang, chunks=chunks)
    work = Work(sequence_length, numerics, imbalance, schedule, not serving, weights)
    best = chosen_objective(objective, serving)
    check_form(emit)
    config = architecture(model)
    layers = layers_of_layout(layout, config.layers)
    given = {"stages": stages, "gang": gang, "micro_batch": micro_batch, "layers": layers}
    pins = replicas_of(pins_from(pin or (), given), any_replicas)
    step = batch(sequences, pins.micro_batch, micro_batches, pins.replicas or 1)
    old = None if near is None else load_plan(near)
    there = source.devices(profile, wanted_of(config, step, sequence_length, numerics))
    workload = work.workload(config, step, there)
    pins = with_micro_batch(pins, step.micro_batch)
    searched = searchable(workload, pins.depth)
    question = Question(config, there, searched, step.sequences, pins, best, old)
    check_chunking(question, workload, chunks)
    found = chunked(question, search(question), schedule, chunks)
    emitted = None if emit is None else emitted_layers(emit, found.plan)
    if to is not None:
        save_plan(found.plan, to)
    if html is not None:
        draw(html, config, found.plan, there, found.workload)
    if emitted is None:
        show(question, found)
    else:
        print_emitted(*emitted)
    for each in written:
        typer.echo(each.told, err=emitted is not None)


def wanted_of(
    config: "ModelConfig", step: "Batch", sequence_length: int | None, numerics: str
) -> "Wanted":
    """Return what nodes measure; where the size of a micro-batch is searched, one sequence."""
    from pipelines.commands.planning_arguments import length_for
    from pipelines.planning.wanted import Wanted

    length = length_for(config, sequence_length)
    return Wanted(config, length, (step.micro_batch or 1,), numerics)


def chosen_objective(name: str | None, serving: bool) -> str:
    """Return the objective: the one given where it makes sense, else the usual one."""
    from moe.planning.search.pins import OBJECTIVES
    from pipelines.commands.planning_arguments import chosen

    if name is None:
        return "tokens" if serving else "step"
    if chosen("--objective", name, OBJECTIVES) == "tokens" and not serving:
        raise ConfigError(
            "--objective tokens counts the keys and values that a server holds; add --serving"
        )
    return name


def with_micro_batch(pins: "Pins", micro_batch: int | None) -> "Pins":
    """Return the pins with the size of a micro-batch, or None where it is searched."""
    from dataclasses import replace

    return replace(pins, micro_batch=micro_batch)
