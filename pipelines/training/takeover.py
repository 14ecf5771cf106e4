"""A run whose command line was killed: its actors live, and another command line takes them over.

Everything that the first one knew is asked of the actors, so nothing has to be kept for the case
that it dies.
"""

from actors.commands import BuildCommand
from actors.crew.ending import name_taken, running
from actors.crew.launch import FIND_SECONDS
from actors.crew.reservation import groups_of
from actors.crew.roster import built_as
from moe.config.run import RunConfig
from moe.errors import ConfigError
from pipelines.training.beginning import Resume, changes, check_saved

BOARD_SECONDS = 30.0
"""Ray ends the board of a killed command line at once, and where its node is lost as soon as it
knows that: after 15 s, unless the cluster was told otherwise."""

_SECTIONS = ("model", "data", "train", "routing", "balance", "plan")
_KEYS = ("checkpoint.path", "checkpoint.storage", "elastic.orphan_seconds")


def patience(resume: Resume) -> float:
    """Return for how many seconds to wait for the end of the command line before."""
    return 0.0 if resume == "never" else BOARD_SECONDS


def living_ranks(run: RunConfig, resume: Resume, sequence_length: int) -> BuildCommand | None:
    """Return what the living actors of a run were built as, to take them over; None without any.

    To be called by the holder of the run's board. Raise LaunchError where the run is not to be
    resumed, ConfigError where the actors are of a run with other options.
    """
    found = None
    if running(run.name) or groups_of(run.name):
        if resume == "never":
            raise name_taken(run.name)
        found = built_as(run.name, FIND_SECONDS)
    if found is None:
        check_saved(run, resume)
        return None
    check_taken_over(run, found, sequence_length)
    return found


def check_taken_over(run: RunConfig, found: BuildCommand, sequence_length: int) -> None:
    """Raise ConfigError where living actors were built for a run with other options.

    Actors keep what they were built with; a checkpoint allows more to change.
    """
    if found.run is None:
        raise name_taken(run.name)
    changed = [text for _, text in changes(found.run, run, _SECTIONS)]
    others = changes(found.run, run, ("checkpoint", "elastic"))
    changed += [text for key, text in others if key in _KEYS]
    if found.sequence_length != sequence_length:
        changed.append(
            f"a row of {run.data.path} had {found.sequence_length} tokens and has {sequence_length}"
        )
    if changed:
        raise ConfigError(
            f"--resume takes over the actors of {run.name}, which live, but {'; '.join(changed)}; "
            f"undo the change, or end them with `raymoe stop {run.name}` and resume from the last "
            "checkpoint"
        )
