"""One step as a picture shows it: of a prediction, or as ranks have traced it."""

from dataclasses import dataclass

from moe.planning.prediction.predict import Prediction
from moe.planning.schedules.simulate import Event, StageTimes, Timeline, simulate


@dataclass(frozen=True, slots=True)
class Step:
    """A step of ``seconds``, the last ``after_seconds`` of which all stages update.

    ``tied``: an embedding that is tied to the head is summed between its stages too. ``several``: a
    stage holds more than one chunk.
    """

    name: str
    line: Timeline
    seconds: float
    after_seconds: float = 0.0
    tied: bool = False
    several: bool = False
    training: bool = True


def predicted_step(name: str, prediction: Prediction) -> Step:
    """Return the step of a prediction, as the simulator plays it."""
    training = prediction.workload.training
    return Step(
        name,
        played(prediction),
        prediction.step_seconds,
        prediction.after_seconds if training else 0.0,
        tied=prediction.tied_seconds > 0,
        several=prediction.chunks > 1,
        training=training,
    )


def traced_step(name: str, events: tuple[tuple[Event, ...], ...], seconds: float) -> Step:
    """Return a step as one rank of each stage has traced it; a piece does not include the wait for
    its message. It is no shorter than its last piece.
    """
    ends = (event.stop for stage in events for event in stage)
    chunks = {event.action.chunk for stage in events for event in stage}
    whole = max(seconds, *ends)
    return Step(
        name, Timeline(events, (0.0,) * len(events)), whole, several=len(chunks) > len(events)
    )


def played(prediction: Prediction) -> Timeline:
    """Return when stages work; the stages of a server have no backward pass and work one after
    another.
    """
    workload = prediction.workload
    if workload.training:
        return prediction.timeline
    ways = (0.0, *prediction.hops)
    pairs = zip(prediction.stages, ways, strict=True)
    times = [StageTimes(stage.forward + way, 0.0) for stage, way in pairs]
    return simulate("gpipe", times, workload.micro_batches, [0.0] * len(prediction.hops))
