"""What a server serves, whether a directory or a run; and that of a run."""

from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.errors import LaunchError
from moe.planning.plan.plan import Plan
from pipelines.serving.arguments import RunArguments
from pipelines.serving.batching.batcher import Room
from pipelines.serving.generation.keeper import Build
from pipelines.serving.living.attaching import attach
from pipelines.serving.living.engine import LivingEngine
from pipelines.serving.living.terms import Conditions
from pipelines.serving.text.text import Text


@dataclass(frozen=True, slots=True)
class ModelInUse:
    """A model with its tokenizer, and what makes an engine that has some room for sequences.

    ``plan`` is that of the ranks, where they are the server's own.
    """

    config: ModelConfig
    text: Text
    room: Room
    build: Build
    plan: Plan | None = None


def of_run(arguments: RunArguments) -> ModelInUse:
    """Return the model that a run trains; errors where the run lets nobody in."""
    first = _attached(arguments)
    config, tokenizer = first.welcome.config, first.welcome.tokenizer
    waiting = [first]

    def build() -> LivingEngine:
        return waiting.pop() if waiting else _attached(arguments, config)

    room = arguments.room_over(first.welcome.standing.stages, config)
    return ModelInUse(config, Text.open(tokenizer), room, build)


def _attached(arguments: RunArguments, before: ModelConfig | None = None) -> LivingEngine:
    """Return an engine over the run, which must be of the model that was served before."""
    share, on_new_weights = arguments.time_share, arguments.on_new_weights
    conditions = Conditions(arguments.answering, share, on_new_weights)
    engine = attach(arguments.run, conditions, arguments.launch_seconds)
    if before is not None and engine.welcome.config != before:
        engine.shutdown()
        raise LaunchError(
            f"the run {arguments.run} trains a model of another architecture now; start the server "
            "again"
        )
    return engine
