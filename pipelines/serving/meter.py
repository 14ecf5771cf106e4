"""The server's counters in Ray's metrics."""

from cluster.metrics import Recorder
from pipelines.serving.generation.generation import Generation


class Meter:
    """The counters of one served model; ``run`` is its public name."""

    def __init__(self, name: str) -> None:
        self._recorder = Recorder(name)

    def generation_ended(self, generation: Generation) -> None:
        """Count a generation that ended or was cancelled."""
        end = "finished" if generation.finished else "abandoned"
        self._recorder.record("serving_generations", 1, end=end)
        self._recorder.record("serving_prompt_tokens", len(generation.job.prompt))
        self._recorder.record("serving_generated_tokens", generation.generated)
