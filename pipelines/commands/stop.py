"""``raymoe stop``: the end of a run, from anywhere."""

from moe.errors import ConfigError
from pipelines.commands.run_arguments import Address, RunName
from pipelines.screen.terminal import say

EXAMPLE = "raymoe stop demo --address 10.0.0.1:6379"


def stop(
    name: RunName,
    address: Address = "auto",
) -> None:
    """End a run, wherever its command was started and even if that command is gone."""
    from actors.crew import ending
    from actors.crew.reservation import groups_of
    from cluster.session import session
    from pipelines.training.board import stop as stop_run

    with session(address):
        heard = stop_run(name)
        if not (heard or ending.running(name) or groups_of(name)):
            raise ConfigError(f"no run named {name} is on this cluster")
        ending.remove(name)
    say(f"ended {name}")
