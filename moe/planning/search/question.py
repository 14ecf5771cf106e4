"""What is to be planned, and what is wrong with it before any search."""

from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.config.overrides import hint
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory, check_one_backend
from moe.planning.plan.plan import Plan
from moe.planning.search.pins import NO_PINS, OBJECTIVES, Pins
from moe.planning.search.shapes import Shape, is_1f1b
from moe.planning.stages.widths import check_width


@dataclass(frozen=True, slots=True)
class Question:
    """A model on an inventory, for so many sequences a step.

    ``objective`` is one of ``moe.planning.search.pins.OBJECTIVES``. The workload's micro-batches
    are not read: sequences, replicas and the size of a micro-batch say how many there are. Among
    equal plans, and among devices that are alike, the search takes those that move the fewest bytes
    from the plan ``near``.
    """

    config: ModelConfig
    inventory: Inventory
    workload: Workload
    sequences: int
    pins: Pins = NO_PINS
    objective: str = "step"
    near: Plan | None = None

    def cut(self, shape: Shape) -> Workload:
        """Return the workload in the micro-batches of a shape."""
        return self.workload.cut(shape.micro_batch, shape.micro_batches(self.sequences))


def check_question(question: Question) -> None:
    """Raise PlanError for what no search could mend."""
    devices = question.inventory.devices
    check_one_backend("the inventory", ((each.name, each.kind) for each in devices))
    if question.objective not in OBJECTIVES:
        raise PlanError(
            f"the objective is {question.objective!r}; {hint(question.objective, OBJECTIVES)}"
        )
    if question.objective == "tokens" and question.workload.training:
        raise PlanError(
            "the objective is tokens held in serving but the workload is training; plan for "
            "serving, or choose the objective step or memory"
        )
    _check_counts(question)
    _check_layers(question)
    _check_micro_batches(question)
    _check_order(question)


def _check_counts(question: Question) -> None:
    pins, devices = question.pins, question.inventory.devices
    stages, gang, replicas = pins.depth or 1, pins.gang or 1, pins.replicas or 1
    needed = stages * gang * replicas
    if needed > len(devices):
        copies = f"{replicas} replicas x " if replicas > 1 else ""
        raise PlanError(
            f"plan needs {needed} ranks ({copies}{stages} stages x gang of {gang}) but "
            f"{len(devices)} devices are there; lower the stages, the gang or the replicas, or add "
            "devices"
        )
    if stages > question.config.layers:
        raise PlanError(
            f"plan needs {stages} stages but the model has {question.config.layers} layers; "
            f"lower the stages to {question.config.layers} or less"
        )
    check_width(question.config, gang)


def _check_layers(question: Question) -> None:
    layers = question.pins.layers
    if layers is not None and sum(layers) != question.config.layers:
        raise PlanError(
            f"layers are pinned to {list(layers)}, {sum(layers)} in all, but the model has "
            f"{question.config.layers}; pin every layer once"
        )


def _check_micro_batches(question: Question) -> None:
    pins, sequences = question.pins, question.sequences
    each = (pins.replicas or 1) * (pins.micro_batch or 1)
    if sequences < 1 or sequences % each:
        raise PlanError(
            f"a step has {sequences} sequences, which {pins.replicas or 1} replicas cannot share "
            f"in whole micro-batches of {pins.micro_batch or 1}; make the sequences of a step a "
            f"multiple of {each}"
        )
    stages, most = pins.depth or 1, sequences // each
    if is_1f1b(question.workload) and most < stages:
        raise PlanError(
            f"1f1b of {stages} stages needs at least {stages} micro-batches but has {most}; "
            "raise the micro-batches or lower the stages"
        )


def _check_order(question: Question) -> None:
    for name in question.pins.order or ():
        question.inventory.device(name)
