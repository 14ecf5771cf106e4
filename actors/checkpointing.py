"""What the engine adds to the files of its ranks to make them one checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.saving import SavedRank
from moe.checkpoint import training
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.plan import Plan
from moe.planning.plan_file import to_dict
from moe.storage import Place


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


def complete(
    directory: Place,
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
