"""What the engine adds to the files of its ranks to make them one checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.calls import Answer, failed
from actors.state.saver import SavedRank
from moe.checkpoint import training
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan
from moe.storage import Location


@dataclass(frozen=True, slots=True)
class SaveContext:
    """What a checkpoint holds that no rank knows: the architecture, the run, and the directory
    that the tokenizer comes from.
    """

    config: ModelConfig
    run: RunConfig
    tokenizer: Path
    data: str
    """Fingerprint of the token shards, so that a resumed run reads the same."""


class Writing:
    """A checkpoint that ranks are writing; nothing waits for it until its result is asked for."""

    def __init__(self, answers: Sequence[Answer], gather: Callable[[], list[SavedRank]]) -> None:
        self._answers = list(answers)
        self._gather = gather

    def done(self) -> bool:
        """Tell whether all ranks have written, or one has failed; at once."""
        return all(answer.done() for answer in self._answers) or any(map(failed, self._answers))

    def result(self) -> list[SavedRank]:
        """Wait for what every rank has written."""
        return self._gather()


def complete(
    directory: Location,
    saved: Sequence[SavedRank],
    step: int,
    plan: Plan,
    context: SaveContext,
) -> None:
    """Write what belongs beside the tensors, and the manifest last."""
    about = training.About(
        config=context.config,
        run=context.run,
        tokenizer=context.tokenizer,
        data=context.data,
        plan=to_dict(plan),
        step=step,
        balance={layer: state for _, held in saved for layer, state in held.items()},
    )
    training.complete(directory, about, [files for files, _ in saved])
