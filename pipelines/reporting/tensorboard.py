"""A journal as an event file of TensorBoard, by tensorboardX, which Ray brings along."""

from pathlib import Path

from moe.errors import ConfigError
from pipelines.reporting.flat import Numbers, flat
from pipelines.reporting.recorded import journal_of


def to_tensorboard(run: Path, directory: Path) -> int:
    """Write the scalars of every step, and the events as text; return the number of steps.

    The directory must be new or empty: TensorBoard would show two exports as one run.
    """
    from tensorboardX import SummaryWriter

    journal = journal_of(run)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            f"{directory} exists and is not empty; TensorBoard would join what is there with this "
            "run, so give a new directory"
        )
    steps = 0
    with SummaryWriter(str(directory)) as writer:
        for each in flat(journal):
            if isinstance(each, Numbers):
                steps += 1
                for name, value in each.values.items():
                    writer.add_scalar(name, value, each.step, walltime=each.moment)
            else:
                writer.add_text(f"events/{each.kind}", each.text, each.step, walltime=each.moment)
    return steps
