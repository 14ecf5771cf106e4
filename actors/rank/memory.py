"""What an error says where the memory of a rank was short: what was predicted, what to change."""

from collections.abc import Callable
from dataclasses import replace

from actors.commands import BuildCommand
from actors.step.replicas import part_of_step
from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import CPU
from moe.planning.prediction.predict import rank_bytes_of
from moe.sizes import size_text


def remedy(command: BuildCommand, config: Callable[[], ModelConfig]) -> str:
    """Return the end of a sentence that began with what was short; ``config`` is of the model."""
    larger = "make a plan with more stages or wider gangs (`raymoe plan`)"
    if command.run is None:
        return f"send shorter prompts, or {larger}"
    size = size_text(predicted_bytes(command, config()))
    return (
        f"the planner predicts {size} for the whole rank: lower train.micro_batch, recompute more "
        f"layers of stage {command.seat.stage}, or {larger}"
    )


def predicted_bytes(command: BuildCommand, config: ModelConfig) -> int:
    """Return the memory of the device of a rank that trains, as the planner counts it."""
    assert command.run is not None
    plan, seat, train = command.plan, command.seat, command.run.train
    workload = Workload.of_run(
        train,
        command.sequence_length,
        len(part_of_step(train.micro_batches, seat.replica, plan.replicas)),
        gpus=plan.rank(seat).kind != CPU,
    )
    rank = plan.seats.rank(replace(seat, replica=0))
    return rank_bytes_of(config, plan, workload)[rank].total
