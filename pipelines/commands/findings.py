"""What ``raymoe plan`` found: on the terminal, as a page, in the words of other systems."""

from pathlib import Path

import typer

from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.moves.difference import diff
from moe.planning.moves.seating import seated_by_device
from moe.planning.plan.other_systems import FORMS, emit
from moe.planning.plan.plan import Plan
from moe.planning.prediction.copies import room_for_copies
from moe.planning.prediction.predict import predict
from moe.planning.search.make import even_layers
from moe.planning.search.search import Found, Question
from moe.sizes import size_text
from pipelines.commands.planning_arguments import chosen
from pipelines.planning.capacity import tokens_held
from pipelines.planning.chunking import moved_notes
from pipelines.screen.comparison import alternatives_table
from pipelines.screen.plan_page import write_page
from pipelines.screen.plan_table import plan_picture
from pipelines.screen.terminal import console, say
from pipelines.screen.words import count


def show(question: Question, found: Found) -> None:
    """Print a plan, its prediction, and the alternatives."""
    config, there, work = question.config, question.inventory, found.workload
    predicted = predict(config, found.plan, there, work)
    even = predict(config, even_layers(found.plan), there, work)
    console.print(plan_picture(config, found.plan, there, predicted, even, console.width))
    for line in _notes(question, found):
        say(line)
    table = alternatives_table(found, question.objective, console.width)
    if table is not None:
        console.print(table)


def draw(path: Path, config: ModelConfig, plan: Plan, there: Inventory, workload: Workload) -> None:
    """Write the page of a plan."""
    predicted = predict(config, plan, there, workload)
    even = predict(config, even_layers(plan), there, workload)
    write_page(path, config, plan, there, predicted, even)


def _moved(question: Question, found: Found, near: Plan) -> str:
    """Say what a resize from the previous plan to the one found would send."""
    seating = seated_by_device(near, found.plan, question.inventory)
    moved = diff(question.config, near, found.plan, found.workload, seating)
    line = (
        f"from the plan of --near, {size_text(moved.bytes)} move to "
        f"{count(len(moved.received), 'device')}: {size_text(moved.weight_bytes)} of weights, "
        f"{size_text(moved.optimizer_bytes)} of optimizer states"
    )
    if moved.lost:
        lost = size_text(sum(move.size for move in moved.lost))
        line += f"; {lost} of it from a checkpoint, as no device that is left holds it"
    return line


def _notes(question: Question, found: Found) -> list[str]:
    """Return what a person should know of how the plan was found, and of its use."""
    plan, work = found.plan, found.workload
    notes = moved_notes(found)
    if not work.training:
        held = tokens_held(question.config, plan, question.inventory, work)
        notes.append(f"the key-value cache of {held:,} tokens fits beside the weights")
    if question.pins.micro_batch is None and work.training:
        notes.append(
            f"the search chose the micro-batch: train with micro_batch = {work.micro_batch}"
        )
    if work.training and plan.replicas * plan.ranks > 1:
        notes.append(room_for_copies(question.config, plan, question.inventory, work).told)
    if plan.replicas > 1:
        notes.append(
            f"training runs all {plan.replicas} replicas; serving takes one, and Ray Serve repeats "
            "it"
        )
    if not (found.alternatives or (question.pins.gang and question.pins.depth)):
        notes.append("no other number of stages, ranks or replicas comes near")
    if found.node_by_node:
        notes.append("nodes that are alike were taken in order; other orders were not tried")
    if question.near is not None:
        notes.append(_moved(question, found, question.near))
    if found.gap > 0:
        notes.append(
            f"the search stopped before the proof: another plan may be up to {found.gap:.1%} better"
        )
    return notes


def check_form(name: str | None) -> None:
    """Raise ConfigError where there is no such form to emit."""
    if name is not None:
        chosen("--emit", name, FORMS)


def emitted_layers(form: str, plan: Plan) -> tuple[str, str]:
    """Return the option of another system that takes the layers of a plan, and its value."""
    several = plan.chunks > 1
    value = emit(form, plan.chunk_spans, ("V" if plan.folded else "loop") if several else None)
    option = FORMS[form].option
    if several and form == "megatron":
        option += f" with --pipeline-model-parallel-size {len(plan.stages)}"
    return option, value


def print_emitted(option: str, value: str) -> None:
    """Print the value alone on stdout, and the option that takes it on stderr."""
    typer.echo(option, err=True)
    typer.echo(value)
