"""A journal as an offline run of Weights & Biases, by their own package, which sends nothing."""

from pathlib import Path

from moe.errors import ConfigError
from pipelines.reporting.flat import Numbers, flat
from pipelines.reporting.recorded import journal_of


def to_wandb(run: Path, directory: Path, name: str) -> int:
    """Write an offline run below ``directory``; return the number of steps.

    ``wandb sync`` sends it, if the user wants that.
    """
    try:
        import wandb
    except ImportError:
        raise ConfigError(
            "--wandb is written by the package wandb, which is not installed; install it with "
            "`pip install 'raymoe[wandb]'`, or leave --wandb out"
        ) from None
    journal = journal_of(run)
    directory.mkdir(parents=True, exist_ok=True)
    steps = 0
    settings = wandb.Settings(silent=True, x_disable_stats=True, console="off")
    with wandb.init(
        mode="offline", dir=str(directory), project="raymoe", name=name, settings=settings
    ) as target:
        for each in flat(journal):
            if isinstance(each, Numbers):
                steps += 1
                target.log({**each.values}, step=each.step)
            else:
                target.log({f"events/{each.kind}": each.text}, step=each.step)
    return steps
